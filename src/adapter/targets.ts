/** adapter_config.json's keys for a set of adapted modules, so that PEFT adapts exactly these. */
import type { JsonObject } from '../formats/jsonText.js';

const LAYER = /^(?:.*\.)?(?:layers|h|blocks)\.(\d+)\./;

/**
 * Short names (`q_proj`) where they say it all, else full module names.
 * @param someLayers the model may have more layers than these, so they are listed in `layers_to_transform`
 */
export function describeTargets(modules: readonly string[], someLayers: boolean): JsonObject {
  const shortNames = [...new Set(modules.map(shortName))].sort();
  const layerOf = modules.map((module) => LAYER.exec(module)?.[1]);
  const layers = [...new Set(layerOf.filter((layer) => layer !== undefined).map(Number))].sort((a, b) => a - b);
  const outside = layerOf.filter((layer) => layer === undefined).length;
  const inLayers = new Set(modules.filter((_, i) => layerOf[i] !== undefined).map(shortName));
  const complete = modules.length - outside === inLayers.size * layers.length;
  const fromZero = layers.every((layer, i) => layer === i);
  const listed = someLayers || !fromZero;
  // PEFT leaves out modules without a layer number when layers are listed.
  if (!complete || (listed && outside > 0)) return { target_modules: [...modules].sort(), layers_to_transform: null };
  return { target_modules: shortNames, layers_to_transform: listed && layers.length > 0 ? layers : null };
}

const shortName = (module: string): string => module.slice(module.lastIndexOf('.') + 1);
