//! From a model's raw outputs to scores, and from scores to the best of them.
//!
//! Called by `classify` and `models`. Knows no labels and no model.

use std::cmp::Ordering;
use std::ops::Range;

use crate::domain::scores::{Activation, OutputSpec};
use crate::domain::tensor::TensorData;

/// The scores of the row `range` of `output` (its values are flat, one row a picture): dequantised,
/// then activated. Where the range is not within the values, the scores are empty.
///
/// Softmax subtracts the largest value first and sums in 64 bits.
#[must_use]
#[expect(
    clippy::cast_precision_loss,
    reason = "8-bit values less a zero point are exact in f32"
)]
pub fn scores(output: &TensorData, range: Range<usize>, spec: &OutputSpec) -> Vec<f32> {
    let integer = |q: i32| q.saturating_sub(spec.zero_point) as f32 * spec.scale;
    let mut values: Vec<f32> = match output {
        TensorData::Float32(v) => v.get(range).unwrap_or_default().to_vec(),
        TensorData::Float16(v) => v
            .get(range)
            .unwrap_or_default()
            .iter()
            .map(|x| x.to_f32())
            .collect(),
        TensorData::Uint8(v) => v
            .get(range)
            .unwrap_or_default()
            .iter()
            .map(|&q| integer(i32::from(q)))
            .collect(),
        TensorData::Int8(v) => v
            .get(range)
            .unwrap_or_default()
            .iter()
            .map(|&q| integer(i32::from(q)))
            .collect(),
    };
    match spec.activation {
        Activation::None => {}
        Activation::Softmax => softmax(&mut values),
        Activation::Sigmoid => {
            for x in &mut values {
                *x = 1.0 / (1.0 + (-*x).exp());
            }
        }
    }
    values
}

#[expect(clippy::cast_possible_truncation, reason = "the scores are f32")]
fn softmax(values: &mut [f32]) {
    let largest = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for x in values.iter_mut() {
        *x = (*x - largest).exp();
    }
    let sum: f64 = values.iter().map(|&x| f64::from(x)).sum();
    for x in values {
        *x = (f64::from(*x) / sum) as f32;
    }
}

/// The `k` largest scores with their indices, the largest first, equal ones by index; NaN comes last.
#[must_use]
pub fn top_k(scores: &[f32], k: usize) -> Vec<(usize, f32)> {
    let all = scores.iter().copied().enumerate();
    if k.saturating_mul(8) >= scores.len() {
        let mut ranked: Vec<_> = all.collect();
        ranked.sort_unstable_by(better_first);
        ranked.truncate(k);
        return ranked;
    }
    let mut best: Vec<(usize, f32)> = Vec::with_capacity(k + 1);
    for candidate in all {
        let full = best.len() == k;
        if full
            && best
                .last()
                .is_none_or(|worst| better_first(worst, &candidate).is_lt())
        {
            continue;
        }
        let at = best.partition_point(|kept| better_first(kept, &candidate).is_lt());
        best.insert(at, candidate);
        best.truncate(k);
    }
    best
}

/// Orders the better of two entries first.
fn better_first(a: &(usize, f32), b: &(usize, f32)) -> Ordering {
    let by_score =
        b.1.partial_cmp(&a.1)
            .unwrap_or_else(|| a.1.is_nan().cmp(&b.1.is_nan()));
    by_score.then(a.0.cmp(&b.0))
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;

    const PLAIN: OutputSpec = OutputSpec {
        activation: Activation::None,
        scale: 1.0,
        zero_point: 0,
    };

    #[test]
    fn the_best_come_first_and_ties_by_index() {
        let scores = [0.1, 0.5, f32::NAN, 0.5, f32::NEG_INFINITY, 0.9];
        let indices = |k| {
            top_k(&scores, k)
                .into_iter()
                .map(|(i, _)| i)
                .collect::<Vec<_>>()
        };
        assert_eq!(indices(0), Vec::<usize>::new());
        assert_eq!(indices(3), [5, 1, 3]);
        assert_eq!(indices(10), [5, 1, 3, 0, 4, 2]);
        assert_eq!(top_k(&[f32::NAN, 1.0], 1), [(1, 1.0)]);
        assert_eq!(top_k(&[], 3), []);
    }

    #[test]
    fn few_of_many_agree_with_a_full_sort() {
        #[expect(clippy::cast_precision_loss, reason = "small integers")]
        let scores: Vec<f32> = (0..1000_u32).map(|i| (i * 7919 % 101) as f32).collect();
        let all = top_k(&scores, 1000);
        for k in [0, 1, 5, 100, 124, 125, 126] {
            assert_eq!(top_k(&scores, k).as_slice(), all.get(..k).unwrap());
        }
    }

    #[test]
    fn outputs_of_every_type_become_scores() {
        let quantised = OutputSpec {
            activation: Activation::None,
            scale: 0.5,
            zero_point: 2,
        };
        assert_eq!(
            scores(&TensorData::Uint8(vec![0, 2, 9]), 1..3, &quantised),
            [0.0, 3.5]
        );
        assert_eq!(
            scores(&TensorData::Int8(vec![-2, 2]), 0..2, &quantised),
            [-2.0, 0.0]
        );
        let half = TensorData::Float16(vec![f16::from_f32(0.25)]);
        assert_eq!(scores(&half, 0..1, &PLAIN), [0.25]);
        assert_eq!(scores(&half, 0..2, &PLAIN), Vec::<f32>::new());
    }

    #[test]
    fn activations_are_stable() {
        let soft = OutputSpec {
            activation: Activation::Softmax,
            ..PLAIN
        };
        assert_eq!(
            scores(&TensorData::Float32(vec![1e30, 1e30]), 0..2, &soft),
            [0.5, 0.5]
        );
        let row = scores(&TensorData::Float32(vec![1.0, 2.0, 3.0]), 0..3, &soft);
        assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        let sigmoid = OutputSpec {
            activation: Activation::Sigmoid,
            ..PLAIN
        };
        let row = scores(
            &TensorData::Float32(vec![0.0, -1000.0, 1000.0]),
            0..3,
            &sigmoid,
        );
        assert_eq!(row, [0.5, 0.0, 1.0]);
    }
}
