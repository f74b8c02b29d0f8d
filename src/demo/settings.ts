/** Numbers that the demo's base model, its tokenizer and the demo itself share. Seeds differ so that no text is seen twice. */

/** Tokens that a sequence of the base model may have. */
export const CONTEXT_LENGTH = 512;
/** Entries of the tokenizer. */
export const VOCAB_SIZE = 2048;
/** Stands between two articles in the base model's training text: the base goes on with another article instead of ending. */
export const ARTICLE_SEPARATOR = '\n\n\n';
/** Articles that the tokenizer learns from. */
export const TOKENIZER_ARTICLES = 6000;
/** Articles of the tokenizer and of the base model's training text. */
export const BASE_SEED = 1;
/** Articles that the demo halves: the base model has never seen them. */
export const DEMO_SEED = 2;
