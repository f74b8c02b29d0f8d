/**
 * Loss and gradients from TF.js's own tape, with memory given back on the way.
 *
 * `tf.variableGrads` keeps every saved activation and every intermediate gradient until the whole backward pass is over, so
 * its peak is about twice the activations. Walking the same tape here, a node's saved tensors and the gradient of its output
 * are disposed as soon as the node is done (the tape is topologically ordered: nobody else needs them), so the peak is the
 * activations plus the temporaries of one node. Values are those of `tf.variableGrads`, bit for bit.
 */
import { tf } from '../backend/tf.js';
import type { Tensor, Variable } from '../backend/tf.js';
import { NiftError } from '../errors.js';

type State = ReturnType<typeof tf.engine>['state'];
type TapeNode = State['activeTape'][number];

/**
 * @param f a scalar function of the variables; run once
 * @returns the loss, and for each variable its gradient or null when `f` does not depend on it. The caller disposes them.
 */
export function lossAndGradients(
  f: () => tf.Scalar,
  variables: readonly Variable[],
): { loss: tf.Scalar; grads: (Tensor | null)[] } {
  const state = tf.engine().state;
  if (state.gradientDepth !== 0) throw new NiftError('NIFT_INTERNAL', 'lossAndGradients does not nest inside another gradient');
  state.activeTape = [];
  state.gradientDepth++;
  let loss: tf.Scalar;
  try {
    loss = tf.tidy(f);
  } catch (error) {
    disposeSaved(state.activeTape);
    throw error;
  } finally {
    state.gradientDepth--;
  }
  const tape = state.activeTape;
  try {
    return { loss, grads: walk(tape, loss, variables) };
  } catch (error) {
    disposeSaved(tape);
    throw error;
  } finally {
    state.activeTape = null as unknown as TapeNode[];
  }
}

function disposeSaved(tape: readonly TapeNode[]): void {
  for (const node of tape) for (const tensor of node.saved ?? []) tensor.dispose();
}

function walk(tape: readonly TapeNode[], loss: Tensor, variables: readonly Variable[]): (Tensor | null)[] {
  const fromVariables = reachable(tape, variables);
  const needed = leadingTo(tape, loss, fromVariables);
  const isVariable = new Set(variables.map((variable) => variable.id));
  for (const node of tape) if (!needed.has(node)) disposeSaved([node]);
  const gradients = new Map<number, Tensor>([[loss.id, tf.onesLike(loss)]]);
  for (let i = tape.length - 1; i >= 0; i--) {
    const node = tape[i];
    if (node === undefined || !needed.has(node)) continue;
    backpropagate(node, gradients, fromVariables);
    for (const output of node.outputs) {
      if (isVariable.has(output.id)) continue;
      gradients.get(output.id)?.dispose();
      gradients.delete(output.id);
    }
    disposeSaved([node]);
  }
  return variables.map((variable) => gradients.get(variable.id) ?? null);
}

/** Ids of the tensors that depend on a variable. */
function reachable(tape: readonly TapeNode[], variables: readonly Variable[]): Set<number> {
  const ids = new Set(variables.map((variable) => variable.id));
  for (const node of tape) {
    if (Object.values(node.inputs).some((input) => ids.has(input.id))) for (const output of node.outputs) ids.add(output.id);
  }
  return ids;
}

/** Nodes on a path from a variable to the loss. */
function leadingTo(tape: readonly TapeNode[], loss: Tensor, fromVariables: ReadonlySet<number>): Set<TapeNode> {
  const ids = new Set([loss.id]);
  const nodes = new Set<TapeNode>();
  for (let i = tape.length - 1; i >= 0; i--) {
    const node = tape[i];
    if (node === undefined || !node.outputs.some((output) => ids.has(output.id))) continue;
    const inputs = Object.values(node.inputs);
    for (const input of inputs) ids.add(input.id);
    if (inputs.some((input) => fromVariables.has(input.id))) nodes.add(node);
  }
  return nodes;
}

/** Adds dL/d(input) of every input that depends on a variable. */
function backpropagate(node: TapeNode, gradients: Map<number, Tensor>, fromVariables: ReadonlySet<number>): void {
  const { gradient } = node;
  if (gradient === undefined || gradient === null) throw new NiftError('NIFT_INTERNAL', `op ${node.kernelName} has no gradient`);
  const dys = node.outputs.map((output) => gradients.get(output.id) ?? null);
  const names = Object.keys(node.inputs).filter((name) => fromVariables.has(node.inputs[name]?.id ?? -1));
  // One scope for the node: gradient functions may share temporaries between their inputs.
  const dxs = tf.tidy(() => {
    const byInput = gradient(dys as Tensor[]);
    const taken = new Set<Tensor | null>([...dys, ...(node.saved ?? [])]);
    return names.map((name) => {
      const dx = byInput[name]?.();
      if (dx === undefined) throw new NiftError('NIFT_INTERNAL', `op ${node.kernelName} has no gradient for "${name}"`);
      // An identity may hand dy itself back, or one tensor for two inputs; each gradient here is disposed on its own.
      const own = taken.has(dx) ? dx.clone() : dx;
      taken.add(own);
      return own;
    });
  });
  names.forEach((name, i) => {
    const input = node.inputs[name] as Tensor;
    const dx = dxs[i] as Tensor;
    const known = gradients.get(input.id);
    gradients.set(input.id, known === undefined ? dx : known.add(dx));
    if (known === undefined) return;
    known.dispose();
    dx.dispose();
  });
}
