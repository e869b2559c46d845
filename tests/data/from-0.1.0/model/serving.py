"""What MLflow runs for a model of this product: the code beside the model's files, which needs tim-search installed.

MLflow copies this file into each model it saves ("models from code"), so that no class is pickled.
"""

from __future__ import annotations

import os
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext


class Served(PythonModel):  # type: ignore[misc]
    """Rows in, predictions out; see `model.deployed.DeployedModel.predict`."""

    def load_context(self, context: PythonModelContext) -> None:
        """Read the model's files."""
        from model.deployed import DeployedModel

        # The network of one's own that a model may need is imported only where the environment allows it.
        allowed = os.environ.get("TIM_SEARCH_ALLOW_CODE") == "1"
        self.model = DeployedModel.load(context.artifacts["model"], allow_code=allowed)

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Predict a frame, or what a request held: a list of records, one record, or a dict of lists."""
        rows: Any = model_input
        # A record may hold lists of its own, of a sequence or an image; columns are lists all of them.
        if isinstance(rows, dict) and not all(isinstance(value, list) for value in rows.values()):
            rows = [rows]
        return self.model.predict(pd.DataFrame(rows))


set_model(Served())
