/* Headers of the PROXY protocol, good and bad ones, for tests. */
#ifndef HEADERS_H
#define HEADERS_H

#include "test.h"

#define SIGNATURE "\r\n\r\n\0\r\nQUIT\n"
#define TCP4 SIGNATURE "\x21\x11\0\x0c" "\x0a\1\2\3" "\x0a\4\5\6" "\x12\x34\x56\x78"
#define SIXTEEN "\x20\1\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0"
#define TCP6 SIGNATURE "\x21\x21\0\x24" SIXTEEN "\1" SIXTEEN "\2" "\x12\x34\x56\x78"
#define UNIQUE "\5\0\3abc"

typedef struct {
    const char *bytes;
    size_t size;
} text;
#define TEXT(literal) {literal, sizeof(literal) - 1}

static const text good[] = {
    TEXT("PROXY TCP4 10.1.2.3 10.4.5.6 4660 22136\r\n"),
    TEXT(TCP4),
    TEXT("PROXY TCP6 2001:db8::1 2001:DB8:0:0:0:0:0:2 4660 22136\r\n"),
    TEXT(TCP6),
    TEXT("PROXY UNKNOWN\r\n"),
    TEXT("PROXY UNKNOWN ffff:: :: 1 2 and whatever\r\n"),
    TEXT("PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n"),
    TEXT("PROXY TCP6 :: ::ffff:255.255.255.255 1 2\r\n"),
    TEXT("PROXY TCP6 "
         "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff "
         "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n"),
    TEXT(SIGNATURE "\x20\0\0\0"),
    TEXT(SIGNATURE "\x20\x11\0\5" "junk!"),
    TEXT(SIGNATURE "\x21\0\0\0"),
    TEXT(SIGNATURE "\x21\0\0\6" UNIQUE),
    TEXT(SIGNATURE "\x21\0\0\3" "???"),
    TEXT(SIGNATURE "\x21\x11\0\x12" "\x0a\1\2\3" "\x0a\4\5\6" "\x12\x34\x56\x78"
         UNIQUE),
    TEXT(SIGNATURE "\x21\x12\0\x0c" "\x0a\1\2\3" "\x0a\4\5\6" "\x12\x34\x56\x78"),
};

static const text bad[] = {
    TEXT("GET / HTTP/1.1\r\n"),
    TEXT("\x16\3\1"),                   /* a hello of TLS */
    TEXT("proxy TCP4 1.2.3.4 1.2.3.4 1 2\r\n"),
    TEXT("PROXY TCP5 1.2.3.4 1.2.3.4 1 2\r\n"),
    TEXT("PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n"),
    TEXT("PROXY  TCP4 1.2.3.4 1.2.3.4 1 2\r\n"),
    TEXT("PROXY TCP4  1.2.3.4 1.2.3.4 1 2\r\n"),
    TEXT("PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n"),
    TEXT("PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n"),
    TEXT("PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n"),
    TEXT("PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n"),
    TEXT("PROXY TCP4 1.2.3.4 1.2.3.4 1 2\rx\n"),
    TEXT("PROXY TCP4 1.2.3.4\n1.2.3.4 1 2\r\n"),
    TEXT("PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n"),
    TEXT("PROXY TCP4 1.2.3.4 1.2.3.4 -1 2\r\n"),
    TEXT("PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n"),
    TEXT("PROXY TCP4 1.2.3.4 1.2.3.4 65536 2\r\n"),
    TEXT("PROXY TCP4 1.2.3.4 1.2.3.4 4294967297 2\r\n"),
    TEXT("PROXY TCP4 01.2.3.4 1.2.3.4 1 2\r\n"),
    TEXT("PROXY TCP4 1.2.3 1.2.3.4 1 2\r\n"),
    TEXT("PROXY TCP4 1.2.3.256 1.2.3.4 1 2\r\n"),
    TEXT("PROXY TCP4 1.2.3.4\0 1.2.3.4 1 2\r\n"),
    TEXT("PROXY TCP4 ::1 ::1 1 2\r\n"),
    TEXT("PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n"),
    TEXT("PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n"),
    TEXT("PROXY TCP6 1::2::3 ::1 1 2\r\n"),
    TEXT("PROXY TCP6 :: :: 1 2 0123456789012345678901234567890123456789"
         "0123456789012345678901234567890123456789\r\n"),
    TEXT("PROXY UNKNOWNX\r\n"),
    TEXT("PROXY UNKNOWN a\nb\r\n"),
    TEXT("PROXY UNKNOWN a\n\r\n"),
    TEXT("PROXY UNKNOWN a\r\r\n"),
    TEXT("PROXY UNKNOWN 0123456789012345678901234567890123456789"
         "012345678901234567890123456789012345678901234567890123456789\r\n"),
    TEXT("\r\n\r\n\0\r\nQUIT\r"),
    TEXT(SIGNATURE "\x11"),
    TEXT(SIGNATURE "\x22"),
    TEXT(SIGNATURE "\x21\x41"),
    TEXT(SIGNATURE "\x21\x13"),
    TEXT(SIGNATURE "\x21\x11\0\x0b" "\x0a\1\2\3" "\x0a\4\5\6" "\x12\x34\x56"),
    TEXT(SIGNATURE "\x21\x21\0\x0c" "\x0a\1\2\3" "\x0a\4\5\6" "\x12\x34\x56\x78"),
    TEXT(SIGNATURE "\x21\x31\0\1" "x"),
    TEXT(SIGNATURE "\x21\x11\x0f\xf1"), /* 4097 bytes */
    TEXT(SIGNATURE "\x21\x11\0\x0e" "\x0a\1\2\3" "\x0a\4\5\6" "\x12\x34\x56\x78"
         "\5\0"),
    TEXT(SIGNATURE "\x21\x11\0\x0f" "\x0a\1\2\3" "\x0a\4\5\6" "\x12\x34\x56\x78"
         "\5\0\1"),
    TEXT(SIGNATURE "\x21\x11\0\x12" "\x0a\1\2\3" "\x0a\4\5\6" "\x12\x34\x56\x78"
         "\3\0\3abc"),
    TEXT(SIGNATURE "\x21\x11\0\x13" "\x0a\1\2\3" "\x0a\4\5\6" "\x12\x34\x56\x78"
         "\3\0\4abcd"),
};

enum { GOOD = sizeof good / sizeof *good, BAD = sizeof bad / sizeof *bad };

#endif
