#include "avx512.h"
namespace llmasos {
const Kernel kAmx = kernel_of<Avx512>("amx");
}
