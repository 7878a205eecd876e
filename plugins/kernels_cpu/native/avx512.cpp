#include "avx512.h"

namespace llmasos {

const Kernel kAvx512 = kernel_of<Avx512>("avx512");

}  // namespace llmasos
