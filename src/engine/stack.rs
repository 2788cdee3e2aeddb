//! Tensors of one picture each put below one another, and a batch's output taken apart again.
//!
//! Called by the batching instance. Knows no graph: what cannot be put together or taken apart is told by `None`.

use crate::domain::tensor::{Tensor, TensorData};

/// One tensor of `[n, …]` out of `n` tensors of one and the same shape `[1, …]` and element type.
pub(super) fn stack(tensors: &[&Tensor]) -> Option<Tensor> {
    let (first, rest) = tensors.split_first()?;
    let mut shape = first.shape().to_vec();
    let rows = shape.first_mut().filter(|rows| **rows == 1)?;
    *rows = tensors.len();
    let mut data = with_room(first.data(), tensors.len());
    append(&mut data, first.data()).then_some(())?;
    for tensor in rest {
        let fits = tensor.shape() == first.shape() && append(&mut data, tensor.data());
        fits.then_some(())?;
    }
    Tensor::new(shape, data).ok()
}

/// The `count` rows of `[count, …]`, each of shape `[1, …]`.
pub(super) fn unstack(tensor: Tensor, count: usize) -> Option<Vec<Tensor>> {
    if tensor.shape().first() != Some(&count) || tensor.data().is_empty() {
        return None;
    }
    let mut shape = tensor.shape().to_vec();
    *shape.first_mut()? = 1;
    let row = tensor.data().len() / count;
    let rows: Vec<TensorData> = match tensor.into_data() {
        TensorData::Float32(v) => v
            .chunks_exact(row)
            .map(|row| TensorData::Float32(row.to_vec()))
            .collect(),
        TensorData::Float16(v) => v
            .chunks_exact(row)
            .map(|row| TensorData::Float16(row.to_vec()))
            .collect(),
        TensorData::Uint8(v) => v
            .chunks_exact(row)
            .map(|row| TensorData::Uint8(row.to_vec()))
            .collect(),
        TensorData::Int8(v) => v
            .chunks_exact(row)
            .map(|row| TensorData::Int8(row.to_vec()))
            .collect(),
    };
    rows.into_iter()
        .map(|row| Tensor::new(shape.clone(), row).ok())
        .collect()
}

/// Nothing yet, of `like`'s type, with room for `rows` of it.
fn with_room(like: &TensorData, rows: usize) -> TensorData {
    let room = like.len().saturating_mul(rows);
    match like {
        TensorData::Float32(_) => TensorData::Float32(Vec::with_capacity(room)),
        TensorData::Float16(_) => TensorData::Float16(Vec::with_capacity(room)),
        TensorData::Uint8(_) => TensorData::Uint8(Vec::with_capacity(room)),
        TensorData::Int8(_) => TensorData::Int8(Vec::with_capacity(room)),
    }
}

/// Appends `more` to `to`; false when they are of different types.
fn append(to: &mut TensorData, more: &TensorData) -> bool {
    match (to, more) {
        (TensorData::Float32(to), TensorData::Float32(more)) => to.extend_from_slice(more),
        (TensorData::Float16(to), TensorData::Float16(more)) => to.extend_from_slice(more),
        (TensorData::Uint8(to), TensorData::Uint8(more)) => to.extend_from_slice(more),
        (TensorData::Int8(to), TensorData::Int8(more)) => to.extend_from_slice(more),
        _ => return false,
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(values: &[u8]) -> Tensor {
        let shape = vec![1, values.len()];
        Tensor::new(shape, TensorData::Uint8(values.to_vec())).expect("a row")
    }

    #[test]
    fn what_was_put_together_comes_apart_again() {
        let rows = [row(&[1, 2]), row(&[3, 4]), row(&[5, 6])];
        let refs: Vec<&Tensor> = rows.iter().collect();
        let stacked = stack(&refs).expect("a batch");
        assert_eq!(stacked.shape(), [3, 2]);
        assert_eq!(unstack(stacked, 3).expect("rows"), rows);
    }

    #[test]
    fn what_differs_is_not_put_together() {
        let float = Tensor::new(vec![1, 2], TensorData::Float32(vec![0.0; 2])).expect("a row");
        assert!(stack(&[&row(&[1, 2]), &row(&[1])]).is_none());
        assert!(stack(&[&row(&[1, 2]), &float]).is_none());
        assert!(stack(&[]).is_none());
        let two = Tensor::new(vec![2, 1], TensorData::Uint8(vec![1, 2])).expect("two rows");
        assert!(stack(&[&two]).is_none());
        assert!(unstack(two, 3).is_none());
        assert!(unstack(row(&[1, 2]), 2).is_none());
    }
}
