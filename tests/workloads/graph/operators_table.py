"""The page of operators, docs/operators.md, made from the code; `python -m` this writes it."""

# A paragraph of the page is a line.
# ruff: noqa: E501

from pathlib import Path

from onnx import defs
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import RuntimeContextError, RuntimeImplementationError
from onnx.reference.ops import load_op

from bfpsim.workloads.graph.operators import OVERRIDDEN
from bfpsim.workloads.graph.torch_operators import OPERATORS
from bfpsim.workloads.importers.onnx import quantised
from bfpsim.workloads.importers.torch.operations import _KINDS
from bfpsim.workloads.importers.torch.sites import _KINDS as SITES

PAGE = Path(__file__).parents[3] / "docs" / "operators.md"
LAYERS = {
    "Conv": "of 1 or 2 dimensions", "ConvTranspose": "of 1 or 2 dimensions, not dilated",
    "Einsum": "of two matrices", "Gemm": "", "MatMul": "",
    "Attention": "written out", "CausalConvWithState": "written out",
    "LinearAttention": "written out", "ConvInteger": "as floats", "MatMulInteger": "as floats",
    "QLinearConv": "as floats", "QLinearMatMul": "as floats",
}  # fmt: skip
WITHIN = ("GRU", "LSTM", "RNN", "If", "Loop", "Scan")

HEAD = """# Operators

What runs each operator when a network is run with data (`bs.infer`, `bs.run_inference`, `simulate --images`) and when an ONNX file is a torch module (`quantize`, `mantissa`, `search`). The tables are made from the code: `python -m tests.workloads.graph.operators_table` writes this page, and a test holds it to be the code's.

## ONNX

In a run, products are multiplied by what the run is about: float64, quantised operands, or the simulated array; each gives the type of its first operand back. Any other operator is that of onnx's reference, in the file's own types, but where the reference has an error (tested beside ONNX Runtime and onnx's own cases). "torch" is an operator of PyTorch, which has a gradient, unless attributes ask for what torch does not do; then, and where the column says "reference", the module calls onnx's reference, and nothing before it can be trained. Normalisations and what else follows a layer channel by channel are folded into it as in [workloads.md](workloads.md#importing-from-onnx).

| operator | product | in a run | as a torch module |
|---|---|---|---|
"""

TORCH = """
ONNX Runtime's quantised operators that are read as floats: {quantised}. Of other operators outside ONNX's own domain nothing is known.

## torch

A module is captured as functional ATen operations (`torch.export`). These become layers and nodes; **every other operation is torch's own**, with torch's arithmetic, in the type of the module, wherever it runs. Recurrent layers are one operation each there, products and all.

| operation | is |
|---|---|
"""


def onnx_rows() -> list[str]:
    """A row for each operator of ONNX's main domain."""
    rows = []
    for name in sorted({schema.name for schema in defs.get_all_schemas_with_history()
                        if schema.domain == ""}):  # fmt: skip
        product = "within, each a layer of the run" if name in WITHIN else ""
        if name in LAYERS:
            product = f"layer{', ' + LAYERS[name] if LAYERS[name] else ''}"
        if name in OVERRIDDEN:
            run = f"bfpsim: {OVERRIDDEN[name]}"
        else:
            run = "reference" if in_reference(name) else "not run"
        torch = "not run" if run == "not run" else "reference"
        if name in OPERATORS or name in LAYERS or name in ("GRU", "LSTM", "RNN"):
            torch = "torch"
        rows.append(f"| `{name}` | {product} | {run} | {torch} |")
    return rows


def in_reference(name: str) -> bool:
    versions = [
        schema.since_version
        for schema in defs.get_all_schemas_with_history()
        if schema.name == name and schema.domain == ""
    ]
    try:
        load_op("", name, max(versions), evaluator_cls=ReferenceEvaluator)
    except RuntimeContextError:
        return True  # a function that depends on the types of its inputs
    except (RuntimeImplementationError, ValueError):
        return False
    return True


def torch_rows() -> list[str]:
    rows = {str(target): f"layer: `{kind}`" for target, kind in SITES.items()}
    for target, what in _KINDS.items():
        name = what.__name__.strip("_").replace("_", " ")
        meaning = {"same": "nothing, where it changes no place", "permute": "a view",
                   "reshape": "a view, where axes lie together"}  # fmt: skip
        rows.setdefault(str(target), meaning.get(name, f"a node: {name}"))
    return [f"| `{target}` | {what} |" for target, what in sorted(rows.items())]


def page() -> str:
    known = ", ".join(f"`{name}`" for name in quantised.OPERATORS if "." in name)
    text = HEAD + "\n".join(onnx_rows()) + "\n" + TORCH.format(quantised=known)
    return text + "\n".join(torch_rows()) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
