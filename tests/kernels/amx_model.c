/* SPDX-License-Identifier: Apache-2.0 */
/* The AMX kernel built a second time, over modelled instructions: matmul_test runs it wherever AVX-512 VNNI is. */
#include "tests/kernels/amx_model.h"

#define matmul_amx matmul_amx_modelled
#include "kernels/x86/matmul_amx.c"
