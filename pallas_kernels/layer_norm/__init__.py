"""The layer norm operation: public function, reference and kernels."""
