//! The inner loops of the convolution, compiled for several instruction sets and chosen at run time.
//!
//! Called by `resample` alone. Twenty-four lanes are worked on side by side: eight rows of RGB pixels, or
//! twenty-four rows of gray ones; the arithmetic is Pillow's (32-bit integers, 22 bits of fraction).
#![expect(
    clippy::indexing_slicing,
    reason = "pixel loops over fixed-size arrays"
)]

use multiversion::multiversion;

/// How many lanes are worked on side by side: three registers of AVX2, which is enough work to hide how
/// long a multiplication takes, and leaves room for the pixels that are multiplied.
pub(super) const LANES: usize = 24;
/// How many rows of RGB pixels fill the lanes.
pub(super) const RGB_ROWS: usize = LANES / 3;
/// One column of a band of rows.
pub(super) type Lane8 = [u8; LANES];
/// Sums of one column of a band of rows.
pub(super) type Lane32 = [i32; LANES];
/// What a sum begins with: one half, so that it is rounded.
pub(super) const EMPTY: Lane32 = [HALF; LANES];

/// Bytes of a row that the vertical pass works on at a time: a line of the cache.
const CHUNK: usize = 64;

/// Bits of fraction of a weight (`PRECISION_BITS` of Pillow's `Resample.c`).
pub(super) const PRECISION: u32 = 32 - 8 - 2;
/// One half, with which a sum begins.
const HALF: i32 = 1 << (PRECISION - 1);

/// Rounds a sum of weighted pixels to a pixel (`clip8` of `Resample.c`).
#[inline(always)]
#[expect(clippy::cast_sign_loss, reason = "clamped to 0..=255")]
#[expect(
    clippy::inline_always,
    reason = "has to be compiled for the instruction set of its caller"
)]
fn clip8(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

/// The source columns that an output column or row is made of: `len` of them from `first`, with the
/// weights from `weights` on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taps {
    pub first: usize,
    pub len: usize,
    pub weights: usize,
}

/// Lays eight rows of RGB pixels side by side: a column becomes the eight pixels, one after another.
#[multiversion(targets("x86_64+avx2+bmi2+fma", "x86_64+sse4.2"))]
pub(super) fn interleave_rgb(rows: [&[u8]; RGB_ROWS], out: &mut [Lane8]) {
    let [a, b, c, d, e, f, g, h] = rows.map(|row| row.as_chunks::<12>().0);
    let upper = a.iter().zip(b).zip(c).zip(d);
    let lower = e.iter().zip(f).zip(g).zip(h);
    let fours = out.as_chunks_mut::<4>().0;
    for ((lanes, (((a, b), c), d)), (((e, f), g), h)) in fours.iter_mut().zip(upper).zip(lower) {
        let pixels = [a, b, c, d, e, f, g, h].map(split);
        for (x, lane) in lanes.iter_mut().enumerate() {
            *lane = column(pixels.map(|four| four[x]));
        }
    }
    let done = out.len() - out.len() % 4;
    for (x, lane) in out.iter_mut().enumerate().skip(done) {
        *lane = column(rows.map(|row| pixel(&row[3 * x..])));
    }
}

/// The first pixel of `bytes` as the low three bytes of a word.
#[inline(always)]
#[expect(
    clippy::inline_always,
    reason = "has to be compiled for the instruction set of its caller"
)]
fn pixel(bytes: &[u8]) -> u64 {
    u64::from(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], 0]))
}

/// Four pixels of three bytes as the low three bytes of four words.
#[inline(always)]
#[expect(
    clippy::inline_always,
    reason = "has to be compiled for the instruction set of its caller"
)]
fn split(pixels: &[u8; 12]) -> [u64; 4] {
    let word = |at: usize| {
        let word = [pixels[at], pixels[at + 1], pixels[at + 2], pixels[at + 3]];
        u64::from(u32::from_le_bytes(word))
    };
    let low = 0xFF_FFFF;
    [word(0) & low, word(3) & low, word(6) & low, word(8) >> 8]
}

/// Eight pixels, each the low three bytes of its word, one after another.
#[inline(always)]
#[expect(
    clippy::inline_always,
    reason = "has to be compiled for the instruction set of its caller"
)]
fn column(rgb: [u64; RGB_ROWS]) -> Lane8 {
    let words = [
        rgb[0] | rgb[1] << 24 | rgb[2] << 48,
        rgb[2] >> 16 | rgb[3] << 8 | rgb[4] << 32 | rgb[5] << 56,
        rgb[5] >> 8 | rgb[6] << 16 | rgb[7] << 40,
    ];
    let mut lane = [0; LANES];
    for (to, word) in lane.as_chunks_mut::<8>().0.iter_mut().zip(words) {
        *to = word.to_le_bytes();
    }
    lane
}

/// Lays twenty-four rows of gray pixels side by side.
pub(super) fn interleave_gray(rows: &[&[u8]; LANES], out: &mut [Lane8]) {
    for (x, lane) in out.iter_mut().enumerate() {
        for (value, row) in lane.iter_mut().zip(rows) {
            *value = row.get(x).copied().unwrap_or(0);
        }
    }
}

/// Reads one row of RGB pixels back out of the lanes.
#[multiversion(targets("x86_64+avx2+bmi2+fma", "x86_64+sse4.2"))]
pub(super) fn row_of_rgb(lanes: &[Lane8], row: usize, out: &mut [u8]) {
    let first = 3 * row.min(RGB_ROWS - 1);
    let fours = lanes.as_chunks::<4>().0;
    for (lanes, out) in fours.iter().zip(out.as_chunks_mut::<12>().0) {
        let [a, b, c, d] = lanes.each_ref().map(|lane| pixel(&lane[first..first + 3]));
        let (low, high) = (a | b << 24 | c << 48, c >> 16 | d << 8);
        let (begin, end) = out.split_at_mut(8);
        begin.copy_from_slice(&low.to_le_bytes());
        end.copy_from_slice(&high.to_le_bytes()[..4]);
    }
    let done = lanes.len() - lanes.len() % 4;
    for (lane, out) in lanes.iter().zip(out.as_chunks_mut::<3>().0).skip(done) {
        out.copy_from_slice(&lane[first..first + 3]);
    }
}

/// Reads one row of gray pixels back out of the lanes.
pub(super) fn row_of_gray(lanes: &[Lane8], row: usize, out: &mut [u8]) {
    for (lane, value) in lanes.iter().zip(out) {
        *value = lane[row];
    }
}

/// The horizontal pass over one block of source columns, which begins at column `base`: the output
/// columns of whose taps this block has the last are rounded to `out`; `sums` keeps those that the
/// block has a part of, and is [`EMPTY`] again for each that is finished.
#[multiversion(targets("x86_64+avx2+bmi2+fma", "x86_64+sse4.2"))]
pub(super) fn add_columns(
    block: &[Lane8],
    base: usize,
    (taps, weights): (&[Taps], &[i32]),
    sums: &mut [Lane32],
    out: &mut [Lane8],
) {
    let end = base + block.len();
    for ((tap, sum), out) in taps.iter().zip(sums).zip(out) {
        let last = tap.first + tap.len;
        let (from, to) = (tap.first.max(base), last.min(end));
        if from >= to {
            // Without taps there is nothing to add, and still something to be read.
            if tap.len == 0 {
                *out = [0; LANES];
            }
            continue;
        }
        let whole = from == tap.first && to == last;
        let pixels = &block[from - base..to - base];
        let weights = &weights[tap.weights + from - tap.first..tap.weights + to - tap.first];
        let mut total = if whole { EMPTY } else { *sum };
        for (pixel, &weight) in pixels.iter().zip(weights) {
            // Never true; an exit keeps the compiler from working on several taps of one lane at a
            // time, which it would have to gather, instead of on all lanes of one tap.
            if weight == i32::MIN {
                break;
            }
            for lane in 0..LANES {
                total[lane] += i32::from(pixel[lane]) * weight;
            }
        }
        if to == last {
            for lane in 0..LANES {
                out[lane] = clip8(total[lane]);
            }
            total = EMPTY;
        }
        if !whole {
            *sum = total;
        }
    }
}

/// The vertical pass: one row that is made of as many source rows as there are weights, `pitch` bytes
/// apart from the beginning of `source` on.
#[multiversion(targets("x86_64+avx2+bmi2+fma", "x86_64+sse4.2"))]
pub(super) fn add_rows(source: &[u8], pitch: usize, weights: &[i32], out: &mut [u8]) {
    let len = out.len();
    let mut at = 0;
    while at < len {
        if len < CHUNK {
            out[at] = clip8(
                weights
                    .iter()
                    .enumerate()
                    .fold(HALF, |sum, (row, &weight)| {
                        sum + i32::from(source[row * pitch + at]) * weight
                    }),
            );
            at += 1;
            continue;
        }
        // The last chunk begins earlier rather than being a short one.
        at = at.min(len - CHUNK);
        let mut total = [HALF; CHUNK];
        for (row, &weight) in weights.iter().enumerate() {
            let Some((line, _)) = source[row * pitch + at..].split_first_chunk::<CHUNK>() else {
                break;
            };
            for lane in 0..CHUNK {
                total[lane] += i32::from(line[lane]) * weight;
            }
        }
        for lane in 0..CHUNK {
            out[at + lane] = clip8(total[lane]);
        }
        at += CHUNK;
    }
}
