"""The place under which models saved by version 0.1.0 import `DeployedModel`."""

from model.trained.deployed import DeployedModel as DeployedModel
