"""Results as pages: self-contained HTML that can be read offline, on a phone too."""

from genkernel.report.comparison import compare_page
from genkernel.report.diffusion import diffusion_page
from genkernel.report.gan import gan_page

__all__ = ["compare_page", "diffusion_page", "gan_page"]
