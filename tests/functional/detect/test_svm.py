"""Against scikit-learn's solver of the same problem."""

import pytest
import torch

from puretransforms.functional.detect.svm import fit_linear_svm


def test_as_liblinear():
    svm = pytest.importorskip("sklearn.svm")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 4, generator=generator)
    positive = x[:, 0] + 0.5 * x[:, 1] + 0.7 * torch.randn(200, generator=generator) > 0.3
    w, b = fit_linear_svm(x, positive, penalty=2.0)
    theirs = svm.LinearSVC(C=2.0, class_weight="balanced", dual=False, tol=1e-8, intercept_scaling=100)
    theirs.fit(x.numpy(), positive.numpy())
    assert w.tolist() == pytest.approx(theirs.coef_[0].tolist(), abs=2e-3)
    assert b == pytest.approx(float(theirs.intercept_[0]), abs=2e-3)
