// The numbers of llama_edu.layers.rope_frequencies: theta^(-2i/d), then the Llama 3.1 rule.
const LLAMA_3_1 = { low: 1, high: 4, context: 8192 };

function keep(frequency, rule = LLAMA_3_1) {
  const turns = rule.context * frequency / (2 * Math.PI);
  return Math.min(1, Math.max(0, (turns - rule.low) / (rule.high - rule.low)));
}

function frequencies(headDim, theta, factor, rule = LLAMA_3_1) {
  const plain = Array.from({ length: headDim / 2 }, (_, i) => theta ** (-2 * i / headDim));
  return plain.map(f => f * keep(f, rule) + f / factor * (1 - keep(f, rule)));
}

function bands(headDim, theta, rule = LLAMA_3_1) {
  return frequencies(headDim, theta, 1).map(
    f => keep(f, rule) === 1 ? "kept" : keep(f, rule) === 0 ? "divided" : "blended");
}
