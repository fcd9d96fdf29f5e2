"""`punchline bench`: this engine beside its peers on this machine, and what it keeps of a model.

    cli ─> throughput (decode, prefill) ─> rounds ─> worker: one process per engine and number format
        ─> growth, gaps, quality, serve                    (punchline, llama.cpp, ctranslate2, transformers)
        ─> report (table, JSON, Markdown) ─> document (docs/performance.md)

The process of the command itself loads no torch: two OpenMP runtimes in one process, or threads that spin
while another engine is measured, would ruin the comparison.
"""
