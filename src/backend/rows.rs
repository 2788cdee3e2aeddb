//! Feeds a batch to a graph that may take only one picture at a time, and puts the answers together again.
//!
//! Called by both backends' `run`. Knows no runtime: what runs a view is handed in.

use half::f16;

use super::{BackendError, Signature, TensorInfo};
use crate::domain::tensor::{ElementType, Tensor, TensorData};

/// Values borrowed from a tensor.
#[derive(Clone, Copy)]
pub(super) enum Values<'a> {
    /// 32-bit floats.
    Float32(&'a [f32]),
    /// 16-bit floats.
    Float16(&'a [f16]),
    /// Unsigned bytes.
    Uint8(&'a [u8]),
    /// Signed bytes.
    Int8(&'a [i8]),
}

/// A tensor, or some of its rows, without a copy: `values` holds exactly what `shape` says.
pub(super) struct View<'a> {
    /// The extent of each axis.
    pub shape: Vec<usize>,
    /// The values, row-major.
    pub values: Values<'a>,
}

/// How a backend wants to be fed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Feed {
    /// The whole batch at once where the graph allows it.
    Batch,
    /// One row at a time wherever the graph leaves the batch open.
    Row,
}

/// One input and one output of a graph, looked up by their names.
pub(super) struct Port<'s> {
    /// The backend's name, for messages.
    pub backend: &'static str,
    /// The input that takes the pictures.
    pub input: &'s TensorInfo,
    /// The output that is wanted.
    pub output: &'s TensorInfo,
}

impl<'s> Port<'s> {
    /// Looks the two names up.
    ///
    /// # Errors
    /// [`BackendError::Run`] when the graph lacks one of them, wants more than one input, or the output is of a type
    /// that no classifier has.
    pub(super) fn find(
        backend: &'static str,
        signature: &'s Signature,
        input_name: &str,
        output_name: &str,
    ) -> Result<Self, BackendError> {
        let find = |list: &'s [TensorInfo], kind: &str, name: &str| {
            list.iter()
                .find(|info| info.name == name)
                .ok_or_else(|| BackendError::Run {
                    backend,
                    reason: format!("the graph has no {kind} named {name:?}"),
                })
        };
        let input = find(&signature.inputs, "input", input_name)?;
        let output = find(&signature.outputs, "output", output_name)?;
        let port = Self {
            backend,
            input,
            output,
        };
        match &output.element {
            Ok(_) if signature.inputs.len() == 1 => Ok(port),
            Ok(_) => {
                let count = signature.inputs.len();
                Err(port.refuse(format!("the graph wants {count} inputs, one was given")))
            }
            Err(kind) => Err(port.refuse(format!("output {output_name:?} is {kind}"))),
        }
    }

    /// A failure of this run.
    pub(super) fn refuse(&self, reason: String) -> BackendError {
        BackendError::Run {
            backend: self.backend,
            reason,
        }
    }

    /// Runs `input` through `run`, in one go or row by row, as the graph and `feed` ask. The result's first axis is
    /// the batch: a `[C]` answer to one row becomes `[1, C]`.
    ///
    /// # Errors
    /// What `run` gives; [`BackendError::Run`] when the element type is not the graph's, the batch cannot be cut, or
    /// the rows' answers differ in shape.
    pub(super) fn run(
        &self,
        input: &Tensor,
        feed: Feed,
        run: impl Fn(View<'_>) -> Result<Tensor, BackendError>,
    ) -> Result<Tensor, BackendError> {
        self.check_element(input.data().element())?;
        let batch = input.shape().first().copied().unwrap_or(0);
        if batch == 0 {
            return Err(self.refuse("the input holds no picture".to_owned()));
        }
        let whole = View {
            shape: input.shape().to_vec(),
            values: borrow(input.data()),
        };
        let fixed = self.input.shape.first().copied().flatten();
        let one_each = match fixed {
            Some(fixed) => fixed == 1,
            None => feed == Feed::Row || self.output.shape.len() == 1,
        };
        self.check_shape(input.shape(), one_each)?;
        if batch == 1 || !one_each {
            return run(whole).and_then(|out| self.with_batch_axis(out, batch));
        }
        let rows = cut(&whole, batch).ok_or_else(|| {
            self.refuse(format!(
                "an input of shape {:?} cannot be cut into rows",
                input.shape()
            ))
        })?;
        let answers = rows
            .into_iter()
            .map(|row| run(row).and_then(|out| self.with_batch_axis(out, 1)));
        self.join(answers)
    }

    fn check_element(&self, given: ElementType) -> Result<(), BackendError> {
        match &self.input.element {
            Ok(wanted) if *wanted == given => Ok(()),
            Ok(wanted) => Err(self.refuse(format!("the input is {wanted}, but {given} was given"))),
            Err(kind) => Err(self.refuse(format!("the input is {kind}, but {given} was given"))),
        }
    }

    /// Refuses a shape that the graph does not take; the batch may be any where rows are fed one by one.
    fn check_shape(&self, given: &[usize], one_each: bool) -> Result<(), BackendError> {
        let wanted = &self.input.shape;
        let fits = given.len() == wanted.len()
            && given
                .iter()
                .zip(wanted)
                .enumerate()
                .all(|(axis, (&given, wanted))| {
                    (axis == 0 && one_each) || wanted.is_none_or(|wanted| wanted == given)
                });
        // A graph that says nothing of the shape finds out itself.
        if fits || wanted.is_empty() {
            return Ok(());
        }
        let wanted: Vec<String> = wanted
            .iter()
            .map(|n| n.map_or_else(|| "?".to_owned(), |n| n.to_string()))
            .collect();
        let wanted = wanted.join(", ");
        Err(self.refuse(format!(
            "the input has shape {given:?}, the graph takes [{wanted}]"
        )))
    }

    /// Gives `[C]` its missing first axis when it answers one row.
    fn with_batch_axis(&self, out: Tensor, batch: usize) -> Result<Tensor, BackendError> {
        match *out.shape() {
            [classes] if batch == 1 => Tensor::new(vec![1, classes], out.into_data())
                .map_err(|error| self.refuse(error.to_string())),
            _ => Ok(out),
        }
    }

    /// Puts answers of shape `[1, …]` below one another.
    fn join(
        &self,
        mut answers: impl Iterator<Item = Result<Tensor, BackendError>>,
    ) -> Result<Tensor, BackendError> {
        let differ = || self.refuse("the rows of the batch gave different shapes".to_owned());
        let Some(first) = answers.next().transpose()? else {
            return Err(self.refuse("the input holds no picture".to_owned()));
        };
        let mut shape = first.shape().to_vec();
        let (row, mut rows) = (shape.clone(), 1_usize);
        let mut joined = first.into_data();
        for answer in answers {
            let answer = answer?;
            if answer.shape() != row || !append(&mut joined, answer.into_data()) {
                return Err(differ());
            }
            rows += 1;
        }
        let head = shape
            .first_mut()
            .filter(|head| **head == 1)
            .ok_or_else(differ)?;
        *head = rows;
        Tensor::new(shape, joined).map_err(|error| self.refuse(error.to_string()))
    }
}

fn borrow(data: &TensorData) -> Values<'_> {
    match data {
        TensorData::Float32(v) => Values::Float32(v),
        TensorData::Float16(v) => Values::Float16(v),
        TensorData::Uint8(v) => Values::Uint8(v),
        TensorData::Int8(v) => Values::Int8(v),
    }
}

/// The rows of `whole`, each of shape `[1, …]`; `None` when they are not all of one size.
fn cut<'a>(whole: &View<'a>, batch: usize) -> Option<Vec<View<'a>>> {
    fn chunks<T>(values: &[T], batch: usize) -> Option<std::slice::ChunksExact<'_, T>> {
        let row = values.len() / batch;
        (row > 0 && values.len().is_multiple_of(batch)).then(|| values.chunks_exact(row))
    }
    let mut shape = whole.shape.clone();
    *shape.first_mut()? = 1;
    let view = |values| View {
        shape: shape.clone(),
        values,
    };
    Some(match whole.values {
        Values::Float32(v) => chunks(v, batch)?
            .map(|row| view(Values::Float32(row)))
            .collect(),
        Values::Float16(v) => chunks(v, batch)?
            .map(|row| view(Values::Float16(row)))
            .collect(),
        Values::Uint8(v) => chunks(v, batch)?
            .map(|row| view(Values::Uint8(row)))
            .collect(),
        Values::Int8(v) => chunks(v, batch)?
            .map(|row| view(Values::Int8(row)))
            .collect(),
    })
}

/// Appends `more` to `to`; false when they are of different types.
fn append(to: &mut TensorData, more: TensorData) -> bool {
    match (to, more) {
        (TensorData::Float32(to), TensorData::Float32(more)) => to.extend(more),
        (TensorData::Float16(to), TensorData::Float16(more)) => to.extend(more),
        (TensorData::Uint8(to), TensorData::Uint8(more)) => to.extend(more),
        (TensorData::Int8(to), TensorData::Int8(more)) => to.extend(more),
        _ => return false,
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(shape: &[Option<usize>]) -> TensorInfo {
        TensorInfo {
            name: "x".to_owned(),
            element: Ok(ElementType::Uint8),
            shape: shape.to_vec(),
        }
    }

    fn signature(input: &[Option<usize>], output: &[Option<usize>]) -> Signature {
        Signature {
            inputs: vec![info(input)],
            outputs: vec![info(output)],
        }
    }

    fn batch(rows: u8) -> Tensor {
        let data = (0..rows * 2).collect();
        Tensor::new(vec![usize::from(rows), 2], TensorData::Uint8(data)).unwrap()
    }

    /// Answers `[C]`, the view's own values.
    #[expect(
        clippy::needless_pass_by_value,
        clippy::unnecessary_wraps,
        reason = "it stands for a backend's run"
    )]
    fn echo(view: View<'_>) -> Result<Tensor, BackendError> {
        let Values::Uint8(values) = view.values else {
            panic!("not bytes")
        };
        Ok(Tensor::new(vec![values.len()], TensorData::Uint8(values.to_vec())).unwrap())
    }

    #[test]
    fn a_fixed_batch_is_fed_row_by_row_and_joined() {
        let signature = signature(&[Some(1), Some(2)], &[Some(1), Some(2)]);
        let port = Port::find("test", &signature, "x", "x").unwrap();
        assert_eq!(port.run(&batch(3), Feed::Batch, echo).unwrap(), batch(3));
        assert_eq!(port.run(&batch(1), Feed::Batch, echo).unwrap(), batch(1));
    }

    #[test]
    fn an_open_batch_goes_in_one_piece() {
        let signature = signature(&[None, Some(2)], &[None, Some(2)]);
        let port = Port::find("test", &signature, "x", "x").unwrap();
        let whole = |view: View<'_>| {
            assert_eq!(view.shape, [3, 2]);
            Ok(batch(3))
        };
        assert_eq!(port.run(&batch(3), Feed::Batch, whole).unwrap(), batch(3));
        assert_eq!(port.run(&batch(3), Feed::Row, echo).unwrap(), batch(3));
    }

    #[test]
    fn an_output_without_a_batch_axis_gets_one() {
        let signature = signature(&[None, Some(2)], &[Some(2)]);
        let port = Port::find("test", &signature, "x", "x").unwrap();
        assert_eq!(port.run(&batch(1), Feed::Batch, echo).unwrap(), batch(1));
        assert_eq!(port.run(&batch(2), Feed::Batch, echo).unwrap(), batch(2));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let signature = signature(&[None, Some(2)], &[None, Some(2)]);
        assert!(Port::find("test", &signature, "y", "x").is_err());
        assert!(Port::find("test", &signature, "x", "y").is_err());
        let port = Port::find("test", &signature, "x", "x").unwrap();
        let none = Tensor::new(vec![0, 2], TensorData::Uint8(vec![])).unwrap();
        assert!(port.run(&none, Feed::Batch, echo).is_err());
        let floats = Tensor::new(vec![1, 2], TensorData::Float32(vec![0.0; 2])).unwrap();
        let wide = Tensor::new(vec![1, 3], TensorData::Uint8(vec![0; 3])).unwrap();
        let error = port.run(&wide, Feed::Batch, echo).unwrap_err().to_string();
        assert!(
            error.contains("shape [1, 3]") && error.contains("[?, 2]"),
            "{error}"
        );
        let error = port.run(&floats, Feed::Batch, echo).unwrap_err();
        assert!(error.to_string().contains("uint8") && error.to_string().contains("float32"));
    }
}
