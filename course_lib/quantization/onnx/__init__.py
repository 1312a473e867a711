r"""Networks in ONNX Runtime: write the file, quantize it to 8 bits with ranges of our own, run it and time it.

::

    export(simulated, example, "vgg-int8.onnx")     # the integers of workflow.to_integer(simulated)
    path, names = export(model, example, "vgg.onnx")        # or in float32, for ONNX Runtime's quantizer
    quantize(path, "vgg-int8.onnx", images=dataset.train.images[:500], method="entropy")
    quantize(path, "vgg-int8.onnx", ranges=ranges, names=names)     # ranges of workflow.calibrate
    run("vgg-int8.onnx", dataset.test.images)       # logits
    latency("vgg-int8.onnx", dataset.test.images[:64])

Needs onnx, onnxscript and onnxruntime: pip install 'small-and-fast[deploy]'. They are imported when first needed.
"""

from course_lib.quantization.onnx._export import Exported, export
from course_lib.quantization.onnx._quantize import collect, quantize
from course_lib.quantization.onnx._run import latency, run

__all__ = ["Exported", "collect", "export", "latency", "quantize", "run"]
