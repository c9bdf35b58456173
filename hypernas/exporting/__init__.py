"""Networks that leave: standalone Python source, ONNX, torch.export, safetensors and JSON, all without hypernas."""
