#include "neon.h"

namespace llmasos {

const Kernel kDotprod = kernel_of<Neon>("dotprod");

}  // namespace llmasos
