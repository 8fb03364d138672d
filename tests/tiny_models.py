"""Very small models of libraries with random weights, saved as their users save them."""

import timm
import torch
import transformers

SMALL = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2}


def save_visual(folder, model="test_vit"):
    """A network of timm, with its classifier."""
    torch.manual_seed(3)
    timm.models.save_for_hf(timm.create_model(model, num_classes=7), folder)


def save_audio(folder, kind, seed=3, **of_extractor):
    """An AST (`ast`), the two halves of a CLAP (`clap`) or a wav2vec 2.0 (`wav2vec2`)."""
    torch.manual_seed(seed)
    model, extractor = {"ast": ast, "clap": clap, "wav2vec2": wav2vec2}[kind](**of_extractor)
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)


def ast(max_length=1024):
    config = transformers.ASTConfig(**SMALL, intermediate_size=32, max_length=max_length)
    model = transformers.ASTForAudioClassification(config)
    return model, transformers.ASTFeatureExtractor(max_length=max_length)


def clap():
    audio = {
        "patch_embeds_hidden_size": 8,
        "hidden_size": 64,
        "depths": [1] * 4,
        "num_attention_heads": [1] * 4,
    }
    text = {**SMALL, "intermediate_size": 16, "vocab_size": 20}
    config = transformers.ClapConfig(text_config=text, audio_config=audio, projection_dim=8)
    return transformers.ClapModel(config), transformers.ClapFeatureExtractor(
        truncation="rand_trunc"
    )


def wav2vec2():
    config = transformers.Wav2Vec2Config(
        **SMALL,
        intermediate_size=32,
        conv_dim=[8] * 7,
        feat_extract_norm="layer",  # not over the clip
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
    )
    return transformers.Wav2Vec2Model(config), transformers.Wav2Vec2FeatureExtractor(
        do_normalize=False  # nor is the sound
    )
