"""Public test tools: real servers, a clock set by hand, the contract that every store keeps."""
