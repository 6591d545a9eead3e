/* SPDX-License-Identifier: Apache-2.0 */
/*
 * BLAS reads row-major matrices. A strip of dense weights is, for each column, the values of 16 rows, which is already a
 * row-major [cols][16] matrix: so a panel of some columns and strips is only widened, side by side, never transposed, and
 * out[n][rows] = x[n][cols] * panel[cols][rows].
 *
 * Results depend on the BLAS, on its kernel for this CPU and on the shape of the call: whoever chooses this gives up that
 * a session's bytes are the same everywhere.
 */
#include "model/dense.h"

#include <cblas.h>

#include "base/f16.h"

enum {
	PANEL_STRIPS = 8, /* 128 outputs a call */
	PANEL_COLS = 256, /* of the sum: the panel is 128 KiB, a share of the second-level cache */
	PANEL_LD = PANEL_STRIPS * WEIGHTS_STRIP,
};

/* OpenBLAS has it; other implementations behind the same cblas.h have not. */
extern void openblas_set_num_threads(int n) __attribute__((weak));

void dense_init(void)
{
	if (openblas_set_num_threads)
		openblas_set_num_threads(1);
}

size_t dense_panel_bytes(void)
{
	return sizeof(float) * PANEL_COLS * PANEL_LD;
}

/* Columns [col, col + cols) of one strip to panel[cols][PANEL_LD]. */
static void widen(const struct kernels_matrix *m, uint32_t strip, uint32_t col, uint32_t cols, float *panel)
{
	const uint8_t *data = m->data + weights_strip_bytes(m->type, m->cols) * strip;
	const float *f32 = (const float *)(const void *)data + (size_t)col * WEIGHTS_STRIP;
	const uint16_t *half = (const uint16_t *)(const void *)data + (size_t)col * WEIGHTS_STRIP;
	for (uint32_t c = 0; c < cols; c++, panel += PANEL_LD)
		for (uint32_t r = 0; r < WEIGHTS_STRIP; r++) {
			size_t i = (size_t)c * WEIGHTS_STRIP + r;
			panel[r] = m->type == WEIGHTS_F32  ? f32[i] :
				   m->type == WEIGHTS_BF16 ? f32_from_bf16(half[i]) : f32_from_f16(half[i]);
		}
}

void dense_multiply(const struct kernels_matrix *m, uint32_t strip, uint32_t n_strips, const float *x, size_t ldx, uint32_t n,
		    float *out, size_t ldo, bool more, float *panel)
{
	for (uint32_t end = strip + n_strips; strip < end; strip += PANEL_STRIPS) {
		uint32_t strips = end - strip < PANEL_STRIPS ? end - strip : PANEL_STRIPS;
		uint32_t first = strip * WEIGHTS_STRIP, rows = strips * WEIGHTS_STRIP;
		if (rows > m->rows - first)
			rows = m->rows - first;
		for (uint32_t col = 0; col < m->cols; col += PANEL_COLS) {
			uint32_t cols = m->cols - col < PANEL_COLS ? m->cols - col : PANEL_COLS;
			for (uint32_t s = 0; s < strips; s++)
				widen(m, strip + s, col, cols, panel + s * WEIGHTS_STRIP);
			cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)n, (int)rows, (int)cols, 1.0f, x + col,
				    (int)ldx, panel, PANEL_LD, more || col ? 1.0f : 0.0f, out + first, (int)ldo);
		}
	}
}
