import './tfjs.mjs';
import './setup.mjs';
import '@tensorflow/tfjs-core/dist/tests';
