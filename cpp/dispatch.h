// Which instruction set the kernels run on: the best that this processor has, or the one forced.
#pragma once

#include <string>
#include <vector>

#include "types.h"

namespace crossent {

std::vector<std::string> available_isas();  // best last
const std::string& isa();
void use_isa(const std::string& name);  // throws std::invalid_argument; an empty name is the best one
const Kernels& kernels();

}  // namespace crossent
