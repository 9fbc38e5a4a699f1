"""The hand-over of decrypted adapters from the agent, which holds keys, to vLLM, which does not."""
