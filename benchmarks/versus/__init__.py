"""likelier against TRL's DPOTrainer: time, memory, losses and floating-point operations. See `versus_trl.py`."""
