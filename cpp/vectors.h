// Vectors of 32-bit words for the few moves that compilers make no good code of: narrow numbers to and from words, and
// the transposition of four columns. There is a plain loop for each where a compiler has no vectors of its own.
#pragma once

#include "convert.h"

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector) && __has_builtin(__builtin_convertvector)
#define CROSSENT_SHUFFLES
#endif
#endif

namespace crossent {
namespace {

// What is moved about in a transposition: the bits of a number, in as many bits as the arithmetic has.
template <class Storage, class T>
constexpr bool fits_words = std::is_same_v<Storage, T> || (sizeof(Storage) == 2 && std::is_same_v<T, float>);

template <class Storage, class T>
CROSSENT_INLINE T as_word(Storage x) {
    if constexpr (std::is_same_v<Storage, T>) return x;
    else return bits<T>(static_cast<uint32_t>(x.value));
}
template <class Storage, class T>
CROSSENT_INLINE Storage from_word(T x) {
    if constexpr (std::is_same_v<Storage, T>) return x;
    else return {static_cast<uint16_t>(bits<uint32_t>(x))};
}

#if defined(CROSSENT_SHUFFLES)
// So many words, and halves of words, in a vector.
template <int64_t n>
struct VectorOf {
    typedef uint32_t Words __attribute__((vector_size(4 * n)));  // not by using: GCC would overlook the size
    typedef uint16_t Halves __attribute__((vector_size(2 * n)));
};
using Words = VectorOf<4>::Words;
#if defined(__AVX512F__)
constexpr int64_t words_at_once = 16;
#elif defined(__AVX2__)
constexpr int64_t words_at_once = 8;
#else
constexpr int64_t words_at_once = 4;
#endif

template <class Vector>
CROSSENT_INLINE Vector load_bytes(const void* from) {
    Vector vector;
    std::memcpy(&vector, from, sizeof(vector));
    return vector;
}

template <int64_t n, class Storage>
CROSSENT_INLINE typename VectorOf<n>::Words load_words(const Storage* from) {
    if constexpr (sizeof(Storage) == 4) {
        typename VectorOf<n>::Words words;
        std::memcpy(&words, from, sizeof(words));
        return words;
    } else {
        typename VectorOf<n>::Halves halves;
        std::memcpy(&halves, from, sizeof(halves));
#if defined(__AVX512F__)  // GCC converts this in two parts; masked, for GCC 12 warns of the other one
        if constexpr (n == 16)
            return bits<typename VectorOf<n>::Words>(_mm512_maskz_cvtepu16_epi32(0xffff, bits<__m256i>(halves)));
#endif
        return __builtin_convertvector(halves, typename VectorOf<n>::Words);
    }
}

template <int64_t n, class Storage>
CROSSENT_INLINE void store_words(Storage* to, typename VectorOf<n>::Words words) {
    if constexpr (sizeof(Storage) == 4) {
        std::memcpy(static_cast<void*>(to), &words, sizeof(words));
    } else {
#if defined(__AVX512F__)
        if constexpr (n == 16) {
            const __m256i half = _mm512_maskz_cvtepi32_epi16(0xffff, bits<__m512i>(words));
            std::memcpy(static_cast<void*>(to), &half, sizeof(half));
            return;
        }
#endif
        const auto halves = __builtin_convertvector(words, typename VectorOf<n>::Halves);
        std::memcpy(static_cast<void*>(to), &halves, sizeof(halves));
    }
}

// Quads are four words of a row; a vector holds those of rows that are four apart, so that a transposition of quads
// moves words within 16 bytes only.
#if defined(__AVX512F__)
constexpr int64_t quad_rows = 16;
using Quads = __m512i;
CROSSENT_INLINE Quads low_words(Quads x, Quads y) { return _mm512_maskz_unpacklo_epi32(0xffff, x, y); }
CROSSENT_INLINE Quads high_words(Quads x, Quads y) { return _mm512_maskz_unpackhi_epi32(0xffff, x, y); }
CROSSENT_INLINE Quads low_pairs(Quads x, Quads y) { return _mm512_maskz_unpacklo_epi64(0xff, x, y); }
CROSSENT_INLINE Quads high_pairs(Quads x, Quads y) { return _mm512_maskz_unpackhi_epi64(0xff, x, y); }
template <class Quad>
CROSSENT_INLINE Quads make_quads(const Quad& quad) {
    const auto at = [&](int64_t j) { return bits<__m128i>(quad(j)); };
    const Quads low = _mm512_inserti32x4(_mm512_castsi128_si512(at(0)), at(1), 1);
    return _mm512_inserti32x4(_mm512_inserti32x4(low, at(2), 2), at(3), 3);
}
template <class Take>
CROSSENT_INLINE void take_quads(Quads x, const Take& take) {
    take(0, bits<Words>(_mm512_maskz_extracti32x4_epi32(0xff, x, 0)));
    take(1, bits<Words>(_mm512_maskz_extracti32x4_epi32(0xff, x, 1)));
    take(2, bits<Words>(_mm512_maskz_extracti32x4_epi32(0xff, x, 2)));
    take(3, bits<Words>(_mm512_maskz_extracti32x4_epi32(0xff, x, 3)));
}
#elif defined(__AVX2__)
constexpr int64_t quad_rows = 8;
using Quads = __m256i;
CROSSENT_INLINE Quads low_words(Quads x, Quads y) { return _mm256_unpacklo_epi32(x, y); }
CROSSENT_INLINE Quads high_words(Quads x, Quads y) { return _mm256_unpackhi_epi32(x, y); }
CROSSENT_INLINE Quads low_pairs(Quads x, Quads y) { return _mm256_unpacklo_epi64(x, y); }
CROSSENT_INLINE Quads high_pairs(Quads x, Quads y) { return _mm256_unpackhi_epi64(x, y); }
template <class Quad>
CROSSENT_INLINE Quads make_quads(const Quad& quad) {
    return _mm256_inserti128_si256(_mm256_castsi128_si256(bits<__m128i>(quad(0))), bits<__m128i>(quad(1)), 1);
}
template <class Take>
CROSSENT_INLINE void take_quads(Quads x, const Take& take) {
    take(0, bits<Words>(_mm256_castsi256_si128(x)));
    take(1, bits<Words>(_mm256_extracti128_si256(x, 1)));
}
#else
constexpr int64_t quad_rows = 4;
using Quads = Words;
CROSSENT_INLINE Quads low_words(Quads x, Quads y) { return __builtin_shufflevector(x, y, 0, 4, 1, 5); }
CROSSENT_INLINE Quads high_words(Quads x, Quads y) { return __builtin_shufflevector(x, y, 2, 6, 3, 7); }
CROSSENT_INLINE Quads low_pairs(Quads x, Quads y) { return __builtin_shufflevector(x, y, 0, 1, 4, 5); }
CROSSENT_INLINE Quads high_pairs(Quads x, Quads y) { return __builtin_shufflevector(x, y, 2, 3, 6, 7); }
template <class Quad>
CROSSENT_INLINE Quads make_quads(const Quad& quad) {
    return quad(0);
}
template <class Take>
CROSSENT_INLINE void take_quads(Quads x, const Take& take) {
    take(0, x);
}
#endif

CROSSENT_INLINE void transpose(Quads (&x)[4]) {
    const Quads low01 = low_words(x[0], x[1]), low23 = low_words(x[2], x[3]), high01 = high_words(x[0], x[1]),
                high23 = high_words(x[2], x[3]);
    x[0] = low_pairs(low01, low23);
    x[1] = high_pairs(low01, low23);
    x[2] = low_pairs(high01, high23);
    x[3] = high_pairs(high01, high23);
}
#else
constexpr int64_t quad_rows = 4;
#endif

// n numbers in the narrow type become words, and the other way round.
template <int64_t n, class Storage, class T>
CROSSENT_INLINE void widen_words(const Storage* from, T* to) {
#if defined(CROSSENT_SHUFFLES)
    if constexpr (fits_words<Storage, T>) {
        for (int64_t k = 0; k < n; k += words_at_once) {
            const auto words = load_words<words_at_once>(from + k);
            std::memcpy(to + k, &words, sizeof(words));
        }
        return;
    }
#endif
    for (int64_t k = 0; k < n; ++k) to[k] = as_word<Storage, T>(from[k]);
}
template <int64_t n, class Storage, class T>
CROSSENT_INLINE void narrow_words(const T* from, Storage* to) {
#if defined(CROSSENT_SHUFFLES)
    if constexpr (fits_words<Storage, T>) {
        for (int64_t k = 0; k < n; k += words_at_once) {
            typename VectorOf<words_at_once>::Words words;
            std::memcpy(&words, from + k, sizeof(words));
            store_words<words_at_once>(to + k, words);
        }
        return;
    }
#endif
    for (int64_t k = 0; k < n; ++k) to[k] = from_word<Storage>(from[k]);
}

}  // namespace
}  // namespace crossent
