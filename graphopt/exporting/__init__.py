"""Export to ONNX, checked against PyTorch: models of Ultralytics, and any module (extra ``yolo``)."""
