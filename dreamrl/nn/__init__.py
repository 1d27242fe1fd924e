"""The parts of the model; nothing here imports ray."""
