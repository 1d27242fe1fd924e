"""PPO in dreams on RLlib's new API stack: module, env runner, learner, algorithm."""
