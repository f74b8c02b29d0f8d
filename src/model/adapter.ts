/** The LoRA pairs on a model, fresh or from a PEFT folder, and how they go back to disk. */
import type { Variable } from '../backend/tf.js';
import { readAdapter, writeAdapter, type AdapterConfig } from '../formats/adapter.js';
import type { ModelConfig } from './config.js';
import type { LoraPair } from './layers.js';
import {
  fromAdapterConfig,
  initLora,
  loadLora,
  loraNameA,
  loraNameB,
  loraTargets,
  toAdapterConfig,
  type LoraConfig,
  type LoraTarget,
} from './lora.js';
import type { LinearModule } from './parameters.js';
import { tensorsToWrite } from './save.js';

export class Adapter {
  private constructor(
    readonly config: LoraConfig,
    /** The file it came from, kept so that saving writes back every key; undefined for a fresh adapter. */
    private readonly file: AdapterConfig | undefined,
    private readonly targets: readonly LoraTarget[],
    private readonly pairs: readonly LoraPair[],
  ) {}

  /** A with small random values, B zero: the model computes what it did before. */
  static fresh(config: ModelConfig, lora: LoraConfig, seed: number): Adapter {
    const targets = loraTargets(config, lora);
    return new Adapter(lora, undefined, targets, initLora(targets, lora, seed));
  }

  /** @throws NIFT_ADAPTER_CONFIG, NIFT_ADAPTER_MISMATCH, NIFT_SAFETENSORS_*, NIFT_FILE_* */
  static open(config: ModelConfig, dir: string): Adapter {
    const file = readAdapter(dir);
    try {
      const lora = fromAdapterConfig(file.config, dir);
      const targets = loraTargets(config, lora);
      return new Adapter(lora, file.config, targets, loadLora(targets, lora, file.tensors, dir));
    } finally {
      file.close();
    }
  }

  /** Its tensors by their names on disk: layer by layer, A before B. */
  tensors(): Map<string, Variable> {
    const result = new Map<string, Variable>();
    this.targets.forEach((target, i) => {
      const { a, b } = this.pairs[i]!;
      result.set(loraNameA(target), a);
      result.set(loraNameB(target), b);
    });
    return result;
  }

  /** The pair on one linear module, when it has one. */
  pairOf(layer: number, module: LinearModule): LoraPair | undefined {
    return this.pairs[this.targets.findIndex((target) => target.layer === layer && target.module === module)];
  }

  /** Writes the PEFT folder, float32. @returns the file names written */
  save(dir: string, baseModel: string | null): string[] {
    const config = this.file ?? toAdapterConfig(this.config, baseModel);
    return writeAdapter(dir, config, tensorsToWrite(this.tensors(), 'float32'));
  }
}
