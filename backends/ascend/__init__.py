"""Huawei's Ascend NPUs: what their Triton compiler takes, judged without a device."""
