// ESLint rule: the arrow line of ARCHITECTURE.md. A file under src/<layer>/ imports from its own layer, from the layers
// listed for it, and from the leaves; nothing else.
import path from 'node:path';

const LEAVES = ['config', 'formats', 'errors.js', 'random.js', 'version.js'];
const ENGINE = ['model', 'data', 'templates', 'tokenizer', 'ops', 'backend'];
const MAY_IMPORT = {
  cli: ['demo', 'train', 'distill', 'merge', 'adapter', 'export', 'report', 'bench', ...ENGINE],
  demo: ['train', 'distill', 'report', ...ENGINE],
  bench: ['train', 'report', ...ENGINE],
  train: ['report', ...ENGINE],
  distill: ENGINE,
  export: ENGINE,
  merge: ENGINE,
  adapter: ['merge', ...ENGINE],
  model: ['data', 'ops', 'backend'],
  data: ['templates', 'tokenizer'],
  templates: ['tokenizer'],
  tokenizer: [],
  report: [],
  ops: ['backend'],
  backend: [],
  config: [],
  formats: [],
};

export const layers = {
  meta: {
    type: 'problem',
    schema: [],
    messages: { wrong: 'src/{{from}} may not import from src/{{to}} (see ARCHITECTURE.md).' },
  },
  create(context) {
    const parts = path.relative(path.join(context.cwd, 'src'), context.filename).split(path.sep);
    const from = parts[0];
    const allowed = MAY_IMPORT[from];
    if (!allowed || parts.length < 2) return {};
    return {
      ImportDeclaration: check,
      ExportNamedDeclaration: check,
      ExportAllDeclaration: check,
      ImportExpression: check,
    };
    function check(node) {
      const source = node.source?.value;
      if (typeof source !== 'string' || !source.startsWith('.')) return;
      const target = path.relative(path.join(context.cwd, 'src'), path.resolve(path.dirname(context.filename), source));
      const to = target.split(path.sep)[0];
      const typeOnly = node.importKind === 'type' || node.exportKind === 'type';
      if (to === from || allowed.includes(to) || LEAVES.includes(to)) return;
      // The dtype names are plain data that the leaves share with the backend.
      if (typeOnly && target === path.join('backend', 'dtype.js')) return;
      // Files are mapped through the addon, which is a leaf itself.
      if (from === 'formats' && target === path.join('backend', 'addon.js')) return;
      context.report({ node, messageId: 'wrong', data: { from, to } });
    }
  },
};
