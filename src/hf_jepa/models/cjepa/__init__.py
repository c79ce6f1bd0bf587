"""C-JEPA: an I-JEPA whose predictions are regularised by VICReg."""
