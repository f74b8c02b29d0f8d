/**
 * The paper's template: question, answer, end token, and nothing else. No begin token, no role names.
 * Source: LLaMA-Factory 0.5.2, template "vanilla".
 */
import { Template } from './template.js';

export const vanilla = new Template({
  name: 'vanilla',
  system: ['{{content}}'],
  user: ['{{content}}'],
  assistant: ['{{content}}', { token: 'eos' }],
  separator: [],
  stopTokens: [],
});
