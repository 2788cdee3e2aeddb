//! Pillow's resize, bit for bit: `Resample.c` for 8-bit pixels, `Geometry.c`'s affine for nearest.
//!
//! Called by `preprocess`. Only the window that is asked for is computed: `weights` for its columns and
//! rows, and the horizontal pass over the source rows that the vertical pass needs.
#![expect(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "arithmetic of sizes and pixels as in Resample.c; sizes fit 32 bits"
)]

use std::ops::Range;

use super::kernels::{
    EMPTY, LANES, Lane8, Lane32, RGB_ROWS, Taps, add_columns, add_rows, interleave_gray,
    interleave_rgb, row_of_gray, row_of_rgb,
};
use super::picture::Picture;
use super::spare;
use super::weights::Axis;
use crate::domain::picture::Filter;

/// Source columns that are laid side by side at a time: 96 KiB.
const BLOCK: usize = 4096;

/// The part of the resized picture that is asked for, in its pixels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub columns: Range<usize>,
    pub rows: Range<usize>,
}

/// The window of `picture` resized to `width` x `height`: `rows * columns * channels` bytes.
///
/// The window must lie within the resized picture.
pub(super) fn resize(
    picture: &Picture,
    (width, height): (usize, usize),
    window: &Window,
    filter: Filter,
) -> Vec<u8> {
    let source = (picture.width() as usize, picture.height() as usize);
    let channels = usize::from(picture.channels());
    if source == (width, height) {
        return crop(picture, window);
    }
    if filter == Filter::Nearest {
        return nearest(picture, (width, height), window);
    }
    // Every byte is written: the strips cover the window.
    let mut out = spare::take(window.rows.len() * window.columns.len() * channels);
    let horizontal = Axis {
        source: source.0,
        target: width,
        filter,
    };
    let vertical = Axis {
        source: source.1,
        target: height,
        filter,
    };
    // Pillow 13 takes the vertical pass first where the height shrinks by more than twice what the
    // width does; before, the horizontal pass always was the first.
    let lost_rows = source.1.saturating_sub(height);
    let rows_first = lost_rows > 0 && lost_rows + 2 * width > 2 * source.0;
    let mut from = window.columns.start;
    while from < window.columns.end {
        let (taps, weights) = horizontal.taps(from..window.columns.end);
        let to = from + taps.len();
        let strip = Strip {
            picture,
            taps,
            weights,
            vertical,
            rows: window.rows.clone(),
        };
        let offset = (from - window.columns.start) * channels;
        let pitch = window.columns.len() * channels;
        match (channels, rows_first) {
            (3, false) => strip.columns_first::<3, RGB_ROWS>(&mut out, offset, pitch),
            (3, true) => strip.rows_first::<3, RGB_ROWS>(&mut out, offset, pitch),
            (_, false) => strip.columns_first::<1, LANES>(&mut out, offset, pitch),
            (_, true) => strip.rows_first::<1, LANES>(&mut out, offset, pitch),
        }
        from = to;
    }
    out
}

/// The window of a picture that keeps its size.
fn crop(picture: &Picture, window: &Window) -> Vec<u8> {
    let channels = usize::from(picture.channels());
    let pitch = picture.width() as usize * channels;
    let columns = window.columns.start * channels..window.columns.end * channels;
    let rows = window.rows.clone();
    let mut out = Vec::with_capacity(rows.len() * columns.len());
    for row in rows {
        out.extend_from_slice(&picture.pixels()[row * pitch..][columns.clone()]);
    }
    out
}

/// Pillow's nearest: the affine transform of `Geometry.c`, whose positions are summed up step by step.
fn nearest(picture: &Picture, (width, height): (usize, usize), window: &Window) -> Vec<u8> {
    let channels = usize::from(picture.channels());
    let (source_width, source_height) = (picture.width() as usize, picture.height() as usize);
    let positions = |source: usize, target: usize, kept: &Range<usize>| -> Vec<usize> {
        let step = source as f64 / target as f64;
        let mut at = step * 0.5;
        let mut out = Vec::with_capacity(kept.len());
        for index in 0..kept.end {
            if index >= kept.start {
                out.push((at as usize).min(source - 1));
            }
            at += step;
        }
        out
    };
    let columns = positions(source_width, width, &window.columns);
    let mut out = Vec::with_capacity(window.rows.len() * columns.len() * channels);
    for row in positions(source_height, height, &window.rows) {
        let line = &picture.pixels()[row * source_width * channels..][..source_width * channels];
        for &column in &columns {
            out.extend_from_slice(&line[column * channels..][..channels]);
        }
    }
    out
}

/// A strip of output columns, all the rows of the window.
struct Strip<'a> {
    picture: &'a Picture,
    taps: Vec<Taps>,
    weights: Vec<i32>,
    vertical: Axis,
    rows: Range<usize>,
}

impl Strip<'_> {
    /// The horizontal pass over the source rows that are needed, `BAND` at a time, then the vertical one.
    ///
    /// What lies between the passes is bounded: a picture that is much taller than this would have its
    /// vertical pass first.
    fn columns_first<const C: usize, const BAND: usize>(
        &self,
        out: &mut [u8],
        offset: usize,
        pitch: usize,
    ) {
        let (begin, end) = self.source_columns();
        let mut weights = Vec::new();
        let taps: Vec<Taps> = self
            .rows
            .clone()
            .map(|row| self.vertical.push_taps(row, &mut weights))
            .collect();
        let (Some(first), Some(last)) = (taps.first(), taps.last()) else {
            return;
        };
        let (top, bottom) = (first.first, last.first + last.len);
        let columns = self.taps.len();
        let mut bands = Bands::new(columns, end - begin);
        let pitch_in = self.picture.width() as usize * C;
        let pitch_between = columns * C;
        let mut between = spare::take((bottom - top) * pitch_between);
        for (index, lines) in between.chunks_mut(BAND * pitch_between).enumerate() {
            let line = |row: usize, from: usize, to: usize| {
                // A band may reach past the last row; what it gives there is not kept.
                let row = (top + index * BAND + row).min(bottom - 1);
                &self.picture.pixels()[row * pitch_in..][from * C..to * C]
            };
            self.horizontal::<C, BAND>(line, &mut bands);
            for (row, line) in lines.chunks_exact_mut(pitch_between).enumerate() {
                bands.read::<C>(row, line);
            }
        }
        for (index, taps) in taps.iter().enumerate() {
            let lines = &between[(taps.first - top) * pitch_between..];
            let weights = &weights[taps.weights..][..taps.len];
            let at = index * pitch + offset;
            add_rows(
                lines,
                pitch_between,
                weights,
                &mut out[at..at + pitch_between],
            );
        }
        spare::give_back(between);
    }

    /// The vertical pass, then the horizontal one, a band of `BAND` output rows at a time.
    fn rows_first<const C: usize, const BAND: usize>(
        &self,
        out: &mut [u8],
        offset: usize,
        pitch: usize,
    ) {
        let (begin, end) = self.source_columns();
        let columns = self.taps.len();
        let mut bands = Bands::new(columns, end - begin);
        let pitch_lines = (end - begin) * C;
        let mut lines = vec![0; pitch_lines * BAND];
        let mut weights = Vec::new();
        let pitch_in = self.picture.width() as usize * C;
        for top in self.rows.clone().step_by(BAND) {
            let rows = top..(top + BAND).min(self.rows.end);
            for (line, output) in lines.chunks_exact_mut(pitch_lines).zip(rows.clone()) {
                weights.clear();
                let taps = self.vertical.push_taps(output, &mut weights);
                let source = &self.picture.pixels()[taps.first * pitch_in + begin * C..];
                add_rows(source, pitch_in, &weights, line);
            }
            let line = |index: usize, from: usize, to: usize| {
                &lines[index * pitch_lines..][(from - begin) * C..(to - begin) * C]
            };
            self.horizontal::<C, BAND>(line, &mut bands);
            for (index, output) in rows.enumerate() {
                let at = (output - self.rows.start) * pitch + offset;
                bands.read::<C>(index, &mut out[at..at + columns * C]);
            }
        }
    }

    /// The source columns that the strip needs.
    fn source_columns(&self) -> (usize, usize) {
        let begin = self.taps.first().map_or(0, |taps| taps.first);
        let end = self.taps.last().map_or(0, |taps| taps.first + taps.len);
        (begin, end)
    }

    /// The horizontal pass over `BAND` rows; `line(index, from, to)` gives the columns `from..to` of
    /// one of them.
    fn horizontal<'a, const C: usize, const BAND: usize>(
        &self,
        line: impl Fn(usize, usize, usize) -> &'a [u8],
        bands: &mut Bands,
    ) {
        let (mut from, end) = self.source_columns();
        while from < end {
            let to = (from + bands.block.len()).min(end);
            let part = &mut bands.block[..to - from];
            if C == 3 {
                interleave_rgb(std::array::from_fn(|index| line(index, from, to)), part);
            } else {
                interleave_gray(&std::array::from_fn(|index| line(index, from, to)), part);
            }
            let taps = (self.taps.as_slice(), self.weights.as_slice());
            add_columns(part, from, taps, &mut bands.sums, &mut bands.out);
            from = to;
        }
    }
}

/// The memory of the horizontal pass over one band of rows.
struct Bands {
    /// Source columns laid side by side.
    block: Vec<Lane8>,
    /// The sums of the output columns whose taps are in more than one block.
    sums: Vec<Lane32>,
    /// The output columns, rounded.
    out: Vec<Lane8>,
}

impl Bands {
    fn new(columns: usize, source_columns: usize) -> Self {
        Self {
            block: vec![[0; LANES]; BLOCK.min(source_columns)],
            sums: vec![EMPTY; columns],
            out: vec![[0; LANES]; columns],
        }
    }

    /// Copies one row of the finished band out.
    fn read<const C: usize>(&self, row: usize, line: &mut [u8]) {
        if C == 3 {
            row_of_rgb(&self.out, row, line);
        } else {
            row_of_gray(&self.out, row, line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(width: usize, height: usize) -> Window {
        Window {
            columns: 0..width,
            rows: 0..height,
        }
    }

    fn gradient(width: u32, height: u32, channels: u8) -> Picture {
        let len = (width * height * u32::from(channels)) as usize;
        let pixels = (0..len).map(|i| (i * 37 % 251) as u8).collect();
        Picture::new(width, height, channels, pixels).unwrap()
    }

    #[test]
    fn a_window_is_cut_out_of_the_whole() {
        for filter in [
            Filter::Nearest,
            Filter::Bilinear,
            Filter::Bicubic,
            Filter::Lanczos,
        ] {
            for (channels, size) in [(3, (31, 17)), (1, (31, 17)), (3, (200, 90)), (1, (47, 40))] {
                let picture = gradient(47, 33, channels);
                let all = resize(&picture, size, &whole(size.0, size.1), filter);
                let window = Window {
                    columns: 3..20,
                    rows: 5..16,
                };
                let part = resize(&picture, size, &window, filter);
                let c = usize::from(channels);
                let cut: Vec<u8> = (5..16)
                    .flat_map(|y| all[(y * size.0 + 3) * c..(y * size.0 + 20) * c].to_vec())
                    .collect();
                assert_eq!(part, cut, "{filter:?} {channels} {size:?}");
            }
        }
    }

    #[test]
    fn gray_and_rgb_agree() {
        let gray = gradient(50, 41, 1);
        let triple = gray.pixels().iter().flat_map(|&p| [p; 3]).collect();
        let rgb = Picture::new(50, 41, 3, triple).unwrap();
        for filter in [Filter::Bilinear, Filter::Bicubic, Filter::Lanczos] {
            for (w, h) in [(20, 20), (50, 20), (20, 41), (90, 70), (1, 1)] {
                let a = resize(&gray, (w, h), &whole(w, h), filter);
                let b = resize(&rgb, (w, h), &whole(w, h), filter);
                assert_eq!(a.iter().flat_map(|&p| [p; 3]).collect::<Vec<_>>(), b);
            }
        }
    }

    /// `resize` written down plainly, for the whole picture.
    fn plainly(picture: &Picture, (width, height): (usize, usize), filter: Filter) -> Vec<u8> {
        let c = usize::from(picture.channels());
        // A pixel `i` along the axis of line `l` is pixel `i * from[0] + l * from[1]`.
        let pass = |pixels: &[u8], lines: usize, axis: Axis, from: [usize; 2], to: [usize; 2]| {
            let (taps, weights) = axis.taps(0..axis.target);
            let mut out = vec![0; axis.target * lines * c];
            for (line, (output, taps)) in
                (0..lines).flat_map(|line| taps.iter().enumerate().map(move |tap| (line, tap)))
            {
                for channel in 0..c {
                    let product = |tap: usize| {
                        let at = (taps.first + tap) * from[0] + line * from[1];
                        let weight = weights[taps.weights + tap];
                        i64::from(pixels[at * c + channel]) * i64::from(weight)
                    };
                    let sum: i64 = (0..taps.len).map(product).sum();
                    let at = output * to[0] + line * to[1];
                    out[at * c + channel] = ((sum + (1 << 21)) >> 22).clamp(0, 255) as u8;
                }
            }
            out
        };
        let source = (picture.width() as usize, picture.height() as usize);
        let across = Axis {
            source: source.0,
            target: width,
            filter,
        };
        let down = Axis {
            source: source.1,
            target: height,
            filter,
        };
        let lost = source.1.saturating_sub(height);
        if lost > 0 && lost + 2 * width > 2 * source.0 {
            let between = pass(
                picture.pixels(),
                source.0,
                down,
                [source.0, 1],
                [source.0, 1],
            );
            pass(&between, height, across, [1, source.0], [1, width])
        } else {
            let between = pass(
                picture.pixels(),
                source.1,
                across,
                [1, source.0],
                [1, width],
            );
            pass(&between, width, down, [width, 1], [width, 1])
        }
    }

    #[test]
    fn rows_and_columns_in_any_number_are_what_the_sums_say() {
        let sizes = [
            ((10_000, 9), (7, 5)),
            ((9000, 3), (8999, 2)),
            ((61, 70), (33, 4)),
            ((5, 27), (40, 25)),
            ((97, 17), (23, 30)),
        ];
        for (source, target) in sizes {
            for channels in [1, 3] {
                let picture = gradient(source.0, source.1, channels);
                for filter in [Filter::Bilinear, Filter::Lanczos] {
                    assert_eq!(
                        resize(&picture, target, &whole(target.0, target.1), filter),
                        plainly(&picture, target, filter),
                        "{source:?} {target:?} {channels} {filter:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn huge_sides_cost_only_their_window() {
        let picture = gradient(8000, 1, 3);
        let window = Window {
            columns: 1_023_888..1_024_112,
            rows: 16..240,
        };
        let out = resize(&picture, (2_048_000, 256), &window, Filter::Bilinear);
        assert_eq!(out.len(), 224 * 224 * 3);
    }
}
