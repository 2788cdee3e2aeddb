"""Two faults of tf2onnx 1.17 that cost exported graphs speed or fail them, mended from outside until it does so itself.

- It uses names that NumPy 2 took away. Keras has its own repair of that for its own exports.
- Its optimiser gives up on the whole graph where a scalar is added behind a convolution, as in every hard-swish: a
  MobileNetV3 keeps a hundred transposes. A scalar is the same in every layout, so it may be moved past them.

Called before any conversion.
"""

from __future__ import annotations

import functools
from typing import Any


@functools.cache
def apply() -> None:
    """Mends both, once a process."""
    # Keras's repair is private; the versions are pinned together, and the tests convert by every way that needs it.
    from keras.src.export.tf2onnx_lib import patch_tf2onnx
    from tf2onnx.optimizer.transpose_optimizer import TransposeOptimizer

    patch_tf2onnx()
    vectors_only = TransposeOptimizer._add_handler

    @functools.wraps(vectors_only)
    def scalars_too(self: Any, trans: Any, node: Any) -> Any:
        added = node.inputs[1]
        if added.is_const() and added.get_tensor_value(as_list=False).ndim == 0:
            return self._handle_node_having_branches(trans, node)
        return vectors_only(self, trans, node)

    TransposeOptimizer._add_handler = scalars_too
