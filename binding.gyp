{
  "variables": {
    # Kernel sources are compiled once per instruction set (native/isa.h); binding sources once.
    "isa_sources": [
      "native/rotary_embedding.cpp",
      "native/linear_cross_entropy.cpp",
      "native/cached_attention.cpp",
      "native/causal_attention.cpp",
      "native/gemm_dot.cpp",
      "native/gemm_f32.cpp",
      "native/peak.cpp",
      "native/convert.cpp",
      "native/softmax.cpp",
      "native/reduce.cpp",
      "native/elementwise.cpp",
      "native/simd_math.cpp",
      "native/rms_norm.cpp",
      "native/swiglu.cpp",
      "native/embedding.cpp",
      "native/dropout.cpp",
      "native/adamw.cpp",
      "native/merge_adapter.cpp",
      "native/quantize.cpp"
    ],
    "sources": [
      "native/addon.cpp",
      "native/runtime.cpp",
      "native/thread_pool.cpp",
      "native/scratch.cpp",
      "native/attention_bf16.cpp",
      "native/block_gemm_amx.cpp",
      "native/gemm.cpp",
      "native/bindings/runtime.cpp",
      "native/mapped_file.cpp",
      "native/bindings/mapped_file.cpp",
      "native/bindings/convert.cpp",
      "native/bindings/rotary_embedding.cpp",
      "native/bindings/linear_cross_entropy.cpp",
      "native/bindings/cached_attention.cpp",
      "native/bindings/causal_attention.cpp",
      "native/bindings/gather.cpp",
      "native/bindings/transpose.cpp",
      "native/bindings/softmax.cpp",
      "native/bindings/reduce.cpp",
      "native/bindings/elementwise.cpp",
      "native/gather.cpp",
      "native/transpose.cpp",
      "native/bindings/simd_math.cpp",
      "native/bindings/rms_norm.cpp",
      "native/bindings/swiglu.cpp",
      "native/bindings/embedding.cpp",
      "native/bindings/dropout.cpp",
      "native/bindings/adamw.cpp",
      "native/bindings/gemm.cpp",
      "native/bindings/peak.cpp",
      "native/bindings/linear.cpp",
      "native/crc32.cpp",
      "native/bindings/merge_adapter.cpp",
      "native/bindings/quantize.cpp"
    ]
  },
  "target_defaults": {
    "cflags_cc!": ["-fno-rtti", "-O2", "-std=gnu++17", "-std=gnu++20"],
    "cflags_cc": ["-O3", "-std=c++17", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math", "-Wall", "-Wextra", "-Werror=return-type"],
    "defines": ["NAPI_VERSION=8"],
    "configurations": {
      "Debug": {
        "cflags_cc!": ["-O3"],
        "cflags_cc": ["-O1", "-g", "-fsanitize=address,undefined", "-fno-omit-frame-pointer"],
        "ldflags": ["-fsanitize=address,undefined"]
      }
    }
  },
  "targets": [
    {
      "target_name": "kernels_portable",
      "type": "static_library",
      "cflags": ["-fPIC"],
      "sources": ["<@(isa_sources)"],
      "defines": ["NIFT_ISA=portable"]
    },
    {
      "target_name": "nift",
      "dependencies": [
        "<!(node -p \"require('node-addon-api').targets\"):node_addon_api_except_all",
        "kernels_portable"
      ],
      "sources": ["<@(sources)"],
      "libraries": ["-lpthread"],
      "conditions": [["target_arch=='x64'", { "dependencies": ["kernels_avx2", "kernels_avx512", "kernels_avx512bf16", "kernels_amx"] }]]
    }
  ],
  "conditions": [
    ["target_arch=='x64'", {
      "targets": [
        {
          "target_name": "kernels_avx2",
          "type": "static_library",
          "cflags": ["-fPIC", "-mavx2", "-mfma", "-mf16c"],
          "sources": ["<@(isa_sources)"],
          "defines": ["NIFT_ISA=avx2"]
        },
        {
          "target_name": "kernels_avx512",
          "type": "static_library",
          "cflags": ["-fPIC", "-mavx2", "-mfma", "-mf16c", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512"],
          "sources": ["<@(isa_sources)"],
          "defines": ["NIFT_ISA=avx512"]
        },
        {
          "target_name": "kernels_avx512bf16",
          "type": "static_library",
          "cflags": ["-fPIC", "-mavx2", "-mfma", "-mf16c", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512", "-mavx512bf16"],
          "sources": ["native/gemm_bf16.cpp", "native/gemm_dot_bf16.cpp", "native/peak_bf16.cpp"],
          "defines": ["NIFT_ISA=avx512bf16"]
        },
        {
          "target_name": "kernels_amx",
          "type": "static_library",
          "cflags": ["-fPIC", "-mavx2", "-mfma", "-mf16c", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512", "-mavx512bf16", "-mamx-tile", "-mamx-bf16"],
          "sources": ["native/gemm_bf16.cpp", "native/gemm_dot_bf16.cpp", "native/peak_bf16.cpp"],
          "defines": ["NIFT_ISA=amx"]
        }
      ]
    }]
  ]
}
