//! What a resized pixel is made of: Pillow's filters as weights (`precompute_coeffs` of `Resample.c`).
//!
//! Called by `resample` for one direction at a time. Knows sizes and no pixel.
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "arithmetic of sizes as in Resample.c; sizes fit 32 bits"
)]

use std::ops::Range;

use super::kernels::{PRECISION, Taps};
use crate::domain::picture::Filter;

/// Weights that are kept at a time for the columns (4 MiB), unless one column alone has more.
const KEPT_WEIGHTS: usize = 1 << 20;

/// One direction of a resize (`precompute_coeffs` and `normalize_coeffs_8bpc` of `Resample.c`).
#[derive(Clone, Copy, Debug)]
pub(super) struct Axis {
    /// Pixels that there are.
    pub source: usize,
    /// Pixels that are wanted.
    pub target: usize,
    /// How they are weighed.
    pub filter: Filter,
}

impl Axis {
    /// The taps of the outputs from `wanted.start` on, as many as fit the memory kept for weights.
    pub(super) fn taps(&self, wanted: Range<usize>) -> (Vec<Taps>, Vec<i32>) {
        let mut taps = Vec::with_capacity(wanted.len());
        let mut weights = Vec::new();
        for output in wanted {
            taps.push(self.push_taps(output, &mut weights));
            if weights.len() >= KEPT_WEIGHTS {
                break;
            }
        }
        (taps, weights)
    }

    /// Computes the taps of one output and appends its weights.
    pub(super) fn push_taps(&self, output: usize, weights: &mut Vec<i32>) -> Taps {
        let begin = weights.len();
        if self.source == self.target {
            weights.push(1 << PRECISION);
            return Taps {
                first: output,
                len: 1,
                weights: begin,
            };
        }
        // Pillow keeps the box of the source in 32-bit floats.
        let scale = f64::from(self.source as f32) / self.target as f64;
        let widening = scale.max(1.0);
        let support = support(self.filter) * widening;
        let step = 1.0 / widening;
        let center = (output as f64 + 0.5) * scale;
        let first = (center - support + 0.5).max(0.0) as usize;
        let last = ((center + support + 0.5) as usize).min(self.source);
        let len = last.saturating_sub(first);
        let weight = |x: usize| kernel(self.filter, ((x + first) as f64 - center + 0.5) * step);
        let total: f64 = (0..len).map(weight).sum();
        let one = f64::from(1_u32 << PRECISION);
        weights.extend((0..len).map(|x| {
            let share = if total == 0.0 {
                weight(x)
            } else {
                weight(x) / total
            };
            (share * one + if share < 0.0 { -0.5 } else { 0.5 }) as i32
        }));
        Taps {
            first,
            len,
            weights: begin,
        }
    }
}

/// How far a filter reaches, in source pixels when enlarging.
fn support(filter: Filter) -> f64 {
    match filter {
        Filter::Nearest => 0.5,
        Filter::Bilinear => 1.0,
        Filter::Bicubic => 2.0,
        Filter::Lanczos => 3.0,
    }
}

/// The filters of `Resample.c`.
fn kernel(filter: Filter, x: f64) -> f64 {
    const A: f64 = -0.5;
    match filter {
        Filter::Nearest => f64::from(u8::from(x > -0.5 && x <= 0.5)),
        Filter::Bilinear => (1.0 - x.abs()).max(0.0),
        Filter::Bicubic => {
            let x = x.abs();
            if x < 1.0 {
                ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
            } else if x < 2.0 {
                (((x - 5.0) * x + 8.0) * x - 4.0) * A
            } else {
                0.0
            }
        }
        Filter::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
        Filter::Lanczos => 0.0,
    }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 {
        return 1.0;
    }
    let x = x * std::f64::consts::PI;
    x.sin() / x
}
