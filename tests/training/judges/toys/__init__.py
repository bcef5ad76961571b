"""A room with one evaluator."""

from training.rooms import Room

ROOM = Room("tests.training.judges.toys", "evaluators")
