#include "avx512.h"

namespace llmasos {

const Kernel kAvx512 = kernel_of<Avx512>("avx512");
const Kernel kAvx512Bf16 = kernel_of<Avx512>("avx512bf16", &products_of<Int8<Avx512>>, &kBf16Pairs);

}  // namespace llmasos
