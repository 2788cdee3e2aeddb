//! What a graph must look like to be a picture classifier, and what its shapes say.
//!
//! Pure rules over shapes; the shapes come from `backend`.

use super::picture::Layout;
use super::tensor::ElementType;

/// The graph's picture input: its element type and the extent of each axis, `None` where it is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputFacts {
    /// The element type.
    pub element: ElementType,
    /// The extents, batch first.
    pub shape: Vec<Option<usize>>,
}

/// What the graph says of its picture input once the layout is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PictureAxes {
    /// Where the channels lie.
    pub layout: Layout,
    /// Channels, where the graph fixes them.
    pub channels: Option<usize>,
    /// Rows, where the graph fixes them.
    pub height: Option<usize>,
    /// Columns, where the graph fixes them.
    pub width: Option<usize>,
}

/// Why a graph is no classifier of pictures.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GraphError {
    /// The input has not four axes.
    #[error("the input has shape {0}; a picture input has four axes, [N, C, H, W] or [N, H, W, C]")]
    InputRank(String),
    /// The batch is fixed at something other than 1.
    #[error("the batch is fixed at {0}; it must be open or 1")]
    FixedBatch(usize),
    /// Neither axis is a channel axis.
    #[error(
        "the input has shape {0}; neither the second nor the last axis is 1 or 3 channels: set input.layout"
    )]
    Layout(String),
    /// The channel axis is there, but neither 1 nor 3 long.
    #[error("the graph takes {0} channels; 1 (gray) and 3 (rgb, bgr) are served")]
    Channels(usize),
    /// The output is not one score per class.
    #[error("the output has shape {0}; a classifier's is [N, C], [C] or [N, C, 1, 1]")]
    Output(String),
}

/// A shape as people write it, `?` for an open axis.
#[must_use]
pub fn display_shape(shape: &[Option<usize>]) -> String {
    let axes: Vec<String> = shape
        .iter()
        .map(|axis| axis.map_or_else(|| "?".to_owned(), |n| n.to_string()))
        .collect();
    format!("[{}]", axes.join(", "))
}

impl InputFacts {
    /// Reads layout, channels and size off the shape; `layout` of the manifest wins where it is given.
    ///
    /// # Errors
    /// When the shape is no picture's.
    pub fn axes(&self, layout: Option<Layout>) -> Result<PictureAxes, GraphError> {
        let &[batch, a, b, c] = self.shape.as_slice() else {
            return Err(GraphError::InputRank(display_shape(&self.shape)));
        };
        if let Some(fixed) = batch.filter(|&n| n != 1) {
            return Err(GraphError::FixedBatch(fixed));
        }
        let is_channels = |axis: Option<usize>| matches!(axis, Some(1 | 3));
        let layout = match layout {
            Some(layout) => layout,
            None if is_channels(a) => Layout::Nchw,
            None if is_channels(c) => Layout::Nhwc,
            None => return Err(GraphError::Layout(display_shape(&self.shape))),
        };
        let (channels, height, width) = match layout {
            Layout::Nchw => (a, b, c),
            Layout::Nhwc => (c, a, b),
        };
        match channels {
            Some(n) if n != 1 && n != 3 => Err(GraphError::Channels(n)),
            _ => Ok(PictureAxes {
                layout,
                channels,
                height,
                width,
            }),
        }
    }
}

/// Checks that an output of `shape` is one score per class.
///
/// # Errors
/// When it is not; where the number of classes is open it is `Ok(None)` and a run will tell.
pub fn output_classes(shape: &[Option<usize>]) -> Result<Option<usize>, GraphError> {
    let one_or_open = |axis: Option<usize>| matches!(axis, None | Some(1));
    match *shape {
        [classes] => Ok(classes),
        [batch, classes] if one_or_open(batch) => Ok(classes),
        [batch, classes, height, width]
            if one_or_open(batch) && one_or_open(height) && one_or_open(width) =>
        {
            Ok(classes)
        }
        _ => Err(GraphError::Output(display_shape(shape))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axes(shape: &[Option<usize>]) -> Result<PictureAxes, GraphError> {
        InputFacts {
            element: ElementType::Float32,
            shape: shape.to_vec(),
        }
        .axes(None)
    }

    #[test]
    fn the_layout_is_read_off_the_channel_axis() {
        let nchw = axes(&[None, Some(3), Some(224), Some(200)]).expect("a picture");
        assert_eq!(
            (nchw.layout, nchw.height, nchw.width),
            (Layout::Nchw, Some(224), Some(200))
        );
        let nhwc = axes(&[Some(1), Some(32), Some(16), Some(1)]).expect("a picture");
        assert_eq!(
            (nhwc.layout, nhwc.height, nhwc.width),
            (Layout::Nhwc, Some(32), Some(16))
        );
        let open = axes(&[None, Some(3), None, None]).expect("a picture");
        assert_eq!((open.channels, open.height), (Some(3), None));
        assert!(matches!(
            axes(&[None, None, None, None]),
            Err(GraphError::Layout(_))
        ));
        assert!(matches!(
            axes(&[None, Some(4), Some(8), Some(8)]),
            Err(GraphError::Layout(_))
        ));
        assert_eq!(
            axes(&[Some(8), Some(3), Some(8), Some(8)]),
            Err(GraphError::FixedBatch(8))
        );
        assert!(matches!(
            axes(&[None, Some(784)]),
            Err(GraphError::InputRank(_))
        ));
    }

    #[test]
    fn classifiers_have_one_score_per_class() {
        assert_eq!(output_classes(&[None, Some(10)]), Ok(Some(10)));
        assert_eq!(output_classes(&[Some(10)]), Ok(Some(10)));
        assert_eq!(
            output_classes(&[Some(1), Some(10), Some(1), Some(1)]),
            Ok(Some(10))
        );
        assert_eq!(output_classes(&[None, None]), Ok(None));
        for bad in [
            vec![None, Some(4), Some(5)],
            vec![],
            vec![Some(8), Some(10)],
        ] {
            assert!(output_classes(&bad).is_err(), "{bad:?}");
        }
        assert!(output_classes(&[None, Some(10), Some(7), Some(7)]).is_err());
    }
}
