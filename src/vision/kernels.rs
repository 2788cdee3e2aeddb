//! The inner loops of the convolution, compiled for several instruction sets and chosen at run time.
//!
//! Called by `resample` alone. Sixteen lanes are worked on side by side: four rows of RGBX pixels, or
//! sixteen rows of gray ones; the arithmetic is Pillow's (32-bit integers, 22 bits of fraction).
#![expect(
    clippy::indexing_slicing,
    reason = "pixel loops over fixed-size arrays"
)]

use multiversion::multiversion;

/// How many lanes are worked on side by side.
pub(super) const LANES: usize = 16;
/// One column of a band of rows.
pub(super) type Lane8 = [u8; LANES];
/// Sums of one column of a band of rows.
pub(super) type Lane32 = [i32; LANES];

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

/// Lays four rows of RGB pixels side by side: a column becomes `RGBX RGBX RGBX RGBX`, where X is any
/// byte: its lanes are never read back.
#[multiversion(targets("x86_64+avx2+bmi2+fma", "x86_64+sse4.2"))]
pub(super) fn interleave_rgb(rows: [&[u8]; 4], out: &mut [Lane8]) {
    let [a, b, c, d] = rows.map(|row| row.as_chunks::<12>().0);
    let fours = out.as_chunks_mut::<4>().0;
    for ((((lanes, a), b), c), d) in fours.iter_mut().zip(a).zip(b).zip(c).zip(d) {
        let [a, b, c, d] = [split(a), split(b), split(c), split(d)];
        for (x, lane) in lanes.iter_mut().enumerate() {
            let words = [a[x], b[x], c[x], d[x]];
            for (to, word) in lane.as_chunks_mut::<4>().0.iter_mut().zip(words) {
                *to = word.to_le_bytes();
            }
        }
    }
    let done = out.len() - out.len() % 4;
    for (x, lane) in out.iter_mut().enumerate().skip(done) {
        for (to, row) in lane.as_chunks_mut::<4>().0.iter_mut().zip(rows) {
            *to = [row[3 * x], row[3 * x + 1], row[3 * x + 2], 0];
        }
    }
}

/// Four pixels of three bytes as the low three bytes of four words.
#[inline(always)]
#[expect(
    clippy::inline_always,
    reason = "has to be compiled for the instruction set of its caller"
)]
fn split(pixels: &[u8; 12]) -> [u32; 4] {
    let word = |at: usize| {
        u32::from_le_bytes([pixels[at], pixels[at + 1], pixels[at + 2], pixels[at + 3]])
    };
    [word(0), word(3), word(6), word(8) >> 8]
}

/// Lays sixteen rows of gray pixels side by side.
pub(super) fn interleave_gray(rows: [&[u8]; LANES], out: &mut [Lane8]) {
    for (x, lane) in out.iter_mut().enumerate() {
        for (value, row) in lane.iter_mut().zip(rows) {
            *value = row.get(x).copied().unwrap_or(0);
        }
    }
}

/// The horizontal pass over one block of source columns, which begins at column `base`: adds to the
/// sums of each output column what this block holds of its taps.
#[multiversion(targets("x86_64+avx2+bmi2+fma", "x86_64+sse4.2"))]
pub(super) fn add_columns(
    block: &[Lane8],
    base: usize,
    taps: &[Taps],
    weights: &[i32],
    sums: &mut [Lane32],
) {
    let end = base + block.len();
    for (tap, sum) in taps.iter().zip(sums) {
        let from = tap.first.max(base);
        let to = (tap.first + tap.len).min(end);
        if from >= to {
            continue;
        }
        let pixels = &block[from - base..to - base];
        let weights = &weights[tap.weights + from - tap.first..tap.weights + to - tap.first];
        let mut total = *sum;
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
        *sum = total;
    }
}

/// Rounds the sums of the horizontal pass to pixels and makes the sums ready for the next band.
#[multiversion(targets("x86_64+avx2+bmi2+fma", "x86_64+sse4.2"))]
pub(super) fn finish_columns(sums: &mut [Lane32], out: &mut [Lane8]) {
    for (sum, pixel) in sums.iter_mut().zip(out) {
        for lane in 0..LANES {
            pixel[lane] = clip8(sum[lane] + HALF);
        }
        *sum = [0; LANES];
    }
}

/// The vertical pass: adds a source row with its weight.
#[multiversion(targets("x86_64+avx2+bmi2+fma", "x86_64+sse4.2"))]
pub(super) fn add_line(source: &[u8], weight: i32, sums: &mut [i32]) {
    for (&value, sum) in source.iter().zip(sums) {
        *sum += i32::from(value) * weight;
    }
}

/// Rounds the sums of [`add_line`] to pixels and makes the sums ready for the next row.
#[multiversion(targets("x86_64+avx2+bmi2+fma", "x86_64+sse4.2"))]
pub(super) fn finish_line(sums: &mut [i32], out: &mut [u8]) {
    for (sum, value) in sums.iter_mut().zip(out) {
        *value = clip8(*sum + HALF);
        *sum = 0;
    }
}
