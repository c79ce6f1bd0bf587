"""The contract every pretraining model keeps: outputs, target encoder, loading rules, key maps."""
