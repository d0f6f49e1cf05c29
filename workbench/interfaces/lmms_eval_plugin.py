"""What lmms-eval reads at the entry point `lmms_eval.models`, whenever it starts: so nothing heavy is imported here."""

from typing import Any


def manifest() -> Any:
    """Name and classes of the model `workbench`, as a ``ModelManifest`` of lmms-eval."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(
        "workbench",
        simple_class_path="workbench.interfaces.lmms_eval_models.SimpleModel",
        chat_class_path="workbench.interfaces.lmms_eval_models.ChatModel",
    )
