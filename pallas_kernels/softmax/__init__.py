"""The softmax operation: public function, reference and kernels."""
