"""Numerical core for dynamical analysis, torch only: a map is passed in, no model is imported.

    trajectory    iterate a map; residual, recurrence period
    lyapunov      finite-time Lyapunov spectra by tangent propagation: `lyapunov_spectrum`
    alignment     how far the random tangents bias short spectra, and starts that do not
    covariant     covariant Lyapunov vectors and the angles between them
    finite_size   growth of real perturbations
    readout       growth as the answer sees it
    dimension     Kaplan-Yorke dimension and entropy of a spectrum
    known_tangents  maps with an analytic Jacobian; Runge-Kutta steps of flows
    differentiable  the same exponents as a differentiable function of the parameters

Below them: `flat_state` (pytrees), `tangents` (JVPs), `central_differences`, `orthonormal` (QR), `propagation` (the
loop), `graded_product` (singular values of a long product of triangular matrices).
"""
