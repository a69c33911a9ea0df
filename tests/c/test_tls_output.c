#include "test.h"
const test_case tls_output_tests[] = {{0}};
const test_case tls_dial_tests[] = {{0}};
