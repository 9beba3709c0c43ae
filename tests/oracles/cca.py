"""CCA-Merge in float64, from the published formula and samples as rows."""

import numpy as np
import scipy.linalg


def cca_map(x, y, ridge, prior=None):
    """Return T with y T^T near x, its inverse, and the correlations of the projections.

    Horoi et al., ICML 2024: P_x = S_xx^{-1/2} U and P_y = S_yy^{-1/2} V project rows of samples,
    and T = P_y P_x^{-1} takes rows of y to rows of x. Here T acts on columns.
    """
    n = x.shape[1]
    joint = np.cov(np.hstack([x, y]).T, bias=True)
    s_xx, s_xy, s_yy = joint[:n, :n], joint[:n, n:], joint[n:, n:]
    s_xx = s_xx + ridge * np.trace(s_xx) / n * np.eye(n)
    s_yy = s_yy + ridge * np.trace(s_yy) / n * np.eye(n)
    inverse_x, inverse_y = (np.linalg.inv(scipy.linalg.sqrtm(s).real) for s in (s_xx, s_yy))
    whitened = inverse_x @ s_xy @ inverse_y
    u, _, vt = np.linalg.svd(whitened + (0 if prior is None else prior))
    p_x, p_y = inverse_x @ u, inverse_y @ vt.T
    rows = p_y @ np.linalg.inv(p_x)
    return rows.T, np.linalg.inv(rows.T), np.diag(p_x.T @ joint[:n, n:] @ p_y)
