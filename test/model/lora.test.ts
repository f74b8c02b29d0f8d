/** Which modules an adapter sits on, with which rank and scale, and how it starts. */
import { beforeAll, describe, expect, it } from 'vitest';
import { useBackend } from '../../src/backend/index.js';
import { CausalLM } from '../../src/model/causalLM.js';
import { parseModelConfig } from '../../src/model/config.js';
import { loraTargets, type LoraConfig } from '../../src/model/lora.js';
import { tinyQwen3 } from './fixtures.js';

const config = parseModelConfig(tinyQwen3());
const targets = (lora: Partial<LoraConfig>): ReturnType<typeof loraTargets> =>
  loraTargets(config, { r: 4, alpha: 8, targetModules: 'all', ...lora });
const names = (lora: Partial<LoraConfig>): string[] => targets(lora).map(({ name }) => name);

describe('targets', () => {
  it('are all seven linears of every layer with all, in model order', () => {
    expect(names({})).toHaveLength(21);
    expect(names({}).slice(0, 8)).toEqual([
      'model.layers.0.self_attn.q_proj',
      'model.layers.0.self_attn.k_proj',
      'model.layers.0.self_attn.v_proj',
      'model.layers.0.self_attn.o_proj',
      'model.layers.0.mlp.gate_proj',
      'model.layers.0.mlp.up_proj',
      'model.layers.0.mlp.down_proj',
      'model.layers.1.self_attn.q_proj',
    ]);
    expect(names({ targetModules: ['all'] })).toEqual(names({}));
    expect(names({ targetModules: 'all-linear' })).toEqual(names({}));
  });

  it('are named by suffix, by full name, or by one regular expression', () => {
    expect(names({ targetModules: ['v_proj'] })).toHaveLength(3);
    expect(names({ targetModules: ['1.mlp.up_proj', 'model.layers.2.self_attn.q_proj'] })).toEqual([
      'model.layers.1.mlp.up_proj',
      'model.layers.2.self_attn.q_proj',
    ]);
    expect(names({ targetModules: String.raw`.*\.[01]\.self_attn\.(q|k)_proj` })).toHaveLength(4);
    expect(names({ targetModules: ['q_proj'], layers: [2] })).toEqual(['model.layers.2.self_attn.q_proj']);
  });

  it.each([
    [['q_prj'], 'NIFT_ADAPTER_CONFIG', /"q_proj"/],
    ['nothing', 'NIFT_ADAPTER_CONFIG', /q_proj/],
    ['(', 'NIFT_ADAPTER_CONFIG', undefined],
    [['lm_head'], 'NIFT_MODEL_UNSUPPORTED', undefined],
    [['embed_tokens'], 'NIFT_MODEL_UNSUPPORTED', undefined],
  ])('%j is refused', (targetModules, code, hint) => {
    expect(() => targets({ targetModules })).toThrow(
      expect.objectContaining(hint === undefined ? { code } : { code, hint: expect.stringMatching(hint) }),
    );
  });

  it('scale by alpha / r, with rsLoRA by alpha / sqrt(r), and honour patterns', () => {
    expect(targets({})[0]).toMatchObject({ r: 4, scaling: 2 });
    expect(targets({ rsLora: true })[0]).toMatchObject({ r: 4, scaling: 4 });
    const patterned = targets({ rankPattern: { '0.self_attn.k_proj': 16, '[12].mlp.up_proj': 2 }, alphaPattern: { k_proj: 4 } });
    const find = (name: string): object => patterned.find((target) => target.name.endsWith(name))!;
    expect(find('0.self_attn.k_proj')).toMatchObject({ r: 16, scaling: 0.25 });
    expect(find('1.self_attn.k_proj')).toMatchObject({ r: 4, scaling: 1 });
    expect(find('2.mlp.up_proj')).toMatchObject({ r: 2, scaling: 4 });
    expect(find('0.mlp.up_proj')).toMatchObject({ r: 4, scaling: 2 });
    // A key is a whole component, not any tail of a name.
    expect(targets({ rankPattern: { roj: 9 } }).every(({ r }) => r === 4)).toBe(true);
  });
});

describe('a fresh adapter', () => {
  beforeAll(async () => {
    await useBackend('native');
  });

  it('starts as PEFT starts it, from the seed alone', () => {
    const build = (seed: number): Map<string, Float32Array> => {
      const model = CausalLM.fromConfig(config, { train: 'lora', lora: { r: 16, alpha: 8, targetModules: 'all' }, seed });
      const values = new Map(
        [...model.trainable()].map(([key, variable]) => [key, (variable.dataSync() as Float32Array).slice()]),
      );
      model.dispose();
      return values;
    };
    const values = build(1);
    expect(build(1)).toEqual(values);
    expect([...values.keys()].slice(0, 2)).toEqual([
      'base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight',
      'base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight',
    ]);
    const other = build(2);
    const firsts = new Set<number>();
    for (const [key, data] of values) {
      if (key.includes('lora_B')) {
        expect(data.every((value) => value === 0)).toBe(true);
        continue;
      }
      const bound = 1 / Math.sqrt(data.length / 16);
      const deviation = Math.sqrt(data.reduce((sum, value) => sum + value * value, 0) / data.length);
      expect(Math.max(...data.map(Math.abs))).toBeLessThanOrEqual(Math.fround(bound));
      // A uniform distribution on (-b, b) deviates by b / sqrt(3); 384 samples or more put that within 10 %.
      expect(deviation / (bound / Math.sqrt(3))).toBeGreaterThan(0.9);
      expect(deviation / (bound / Math.sqrt(3))).toBeLessThan(1.1);
      expect(other.get(key)).not.toEqual(data);
      firsts.add(data[0]!);
    }
    expect(firsts.size).toBe(21);
  });
});
