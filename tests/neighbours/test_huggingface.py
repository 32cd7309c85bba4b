"""Hugging Face's Trainer with SparseTrainerCallback, and Accelerate with an attached Sparsifier."""

import subprocess
import sys
import types
from importlib.util import find_spec

import pytest
import torch
from torch import nn

if find_spec("transformers") is None:
    pytest.skip("needs transformers", allow_module_level=True)

import transformers

from rigl_lightning import SET, FixedMasks, GradualMagnitudePruning, GraSP, RigL, Sparsifier, UpdateSchedule
from rigl_lightning.huggingface import SparseTrainerCallback

RIGL = RigL(0.8, schedule=UpdateSchedule(interval=2, end=1.0))


def gpt2():
    config = transformers.GPT2Config(
        vocab_size=64, n_positions=16, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config), lambda x, y: {"input_ids": x, "labels": x}


def bert():
    config = transformers.BertConfig(
        vocab_size=64, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    return transformers.BertForSequenceClassification(config), lambda x, y: {"input_ids": x, "labels": y}


def vit():
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=8, patch_size=4
    )
    return transformers.ViTForImageClassification(config), lambda x, y: {
        "pixel_values": (x[:3, None, None] / 64).repeat(1, 8, 8),
        "labels": y,
    }


class Data(torch.utils.data.Dataset):
    def __init__(self, item):
        generator = torch.Generator().manual_seed(0)
        self.tokens = torch.randint(1, 64, (40, 12), generator=generator)
        self.item = item

    def __len__(self):
        return len(self.tokens)

    def __getitem__(self, i):
        return self.item(self.tokens[i], self.tokens[i, 0] % 2)


def trainer_of(kind, folder, callback, **settings):
    torch.manual_seed(0)
    model, item = kind()
    arguments = transformers.TrainingArguments(
        str(folder),
        **{
            "max_steps": 10,
            "save_steps": 5,
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-3,
            "report_to": [],
            "use_cpu": True,
            "disable_tqdm": True,
            "logging_steps": 5,
            **settings,
        },
    )
    data = Data(item)
    return transformers.Trainer(model, arguments, train_dataset=data, eval_dataset=data, callbacks=[callback])


def zeros_where_inactive(sparsifier):
    return all(not p[~sparsifier.masks[name]].any() for name, p in sparsifier.parameters.items())


@pytest.mark.parametrize(("kind", "compute"), [(gpt2, "dense"), (bert, "dense"), (vit, "sparse")])
def test_a_training_is_sparse_and_its_checkpoints_are_plain(kind, compute, tmp_path):
    callback = SparseTrainerCallback(RIGL, compute=compute)
    trainer = trainer_of(kind, tmp_path, callback)
    trainer.train()
    sparsifier = callback.sparsifier
    assert sparsifier.step == 10
    assert sparsifier.exploration() > sparsifier.total_density()
    assert sparsifier.total_density() == pytest.approx(0.2, abs=0.01)
    assert zeros_where_inactive(sparsifier)
    assert "eval_loss" in trainer.evaluate()
    again = type(trainer.model).from_pretrained(tmp_path / "checkpoint-10")
    for name, parameter in again.named_parameters():
        assert torch.equal(parameter, trainer.model.get_parameter(name))
    before = {name: p.clone() for name, p in sparsifier.parameters.items()}
    trainer.optimizer.step()  # nobody listens any more
    assert sparsifier.step == 10
    assert before.keys() == sparsifier.parameters.keys()


@pytest.mark.parametrize("algorithm", [RIGL, GradualMagnitudePruning(0.8)])
def test_a_resumed_training_ends_as_one_that_was_not_interrupted(algorithm, tmp_path):
    whole = SparseTrainerCallback(algorithm)
    trainer_of(gpt2, tmp_path / "whole", whole).train()
    first = SparseTrainerCallback(algorithm)

    class Stop(transformers.TrainerCallback):
        def on_save(self, args, state, control, **_):
            control.should_training_stop = True

    interrupted = trainer_of(gpt2, tmp_path / "parts", first)
    interrupted.add_callback(Stop())
    interrupted.train()
    assert first.sparsifier.step == 5
    second = SparseTrainerCallback(algorithm)
    resumed = trainer_of(gpt2, tmp_path / "parts", second)
    resumed.train(resume_from_checkpoint=True)
    assert second.sparsifier.step == 10
    assert second.sparsifier.checksums() == whole.sparsifier.checksums()
    for name, parameter in whole.sparsifier.parameters.items():
        assert torch.equal(parameter, second.sparsifier.parameters[name])


def test_a_checkpoint_without_masks_or_elsewhere_is_told_in_one_line(tmp_path):
    trainer_of(gpt2, tmp_path, SparseTrainerCallback(RIGL), max_steps=5).train()
    elsewhere = trainer_of(gpt2, tmp_path / "other", SparseTrainerCallback(RIGL))
    with pytest.raises(FileNotFoundError, match=r"resumed at step 5 .* Set `resume_from`"):
        elsewhere.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    other = SparseTrainerCallback(SET(0.8), resume_from=tmp_path / "checkpoint-5")
    with pytest.raises(ValueError, match="Expected the algorithm of the run that is resumed"):
        trainer_of(gpt2, tmp_path / "other", other).train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))


def test_masks_of_another_training_at_the_same_step_are_refused(tmp_path):
    layer = nn.Linear(20, 10)
    folders = [tmp_path / name for name in ("one", "other")]
    state = types.SimpleNamespace(global_step=0, max_steps=10, is_world_process_zero=False)

    def begin(folder, seed):
        arguments = types.SimpleNamespace(output_dir=folder, seed=seed)
        callback = SparseTrainerCallback(RIGL, include=["weight"])
        callback.on_train_begin(arguments, state, None, model=layer, optimizer=torch.optim.SGD(layer.parameters(), 0.1))
        return callback

    for seed, folder in enumerate(folders):
        nn.init.ones_(layer.weight)
        callback = begin(folder, seed)
        (folder / "checkpoint-5").mkdir(parents=True)
        torch.save(callback.sparsifier.state_dict(), folder / "checkpoint-5" / "sparsifier.pt")
        callback.on_train_end(types.SimpleNamespace(load_best_model_at_end=False), state, None)
    state.global_step = 5
    kept = layer.weight.detach().clone()
    with pytest.raises(ValueError, match=r"got some that leave out weights of 'weight' .* Set `resume_from`"):
        begin(folders[0], 1)
    assert torch.equal(layer.weight, kept)
    begin(folders[1], 1)
    assert torch.equal(layer.weight, kept)


def test_after_a_training_that_was_interrupted_another_begins(tmp_path):
    class Interrupts(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            if state.global_step == 3:
                raise KeyboardInterrupt

    callback = SparseTrainerCallback(RIGL, compute="sparse")
    trainer = trainer_of(vit, tmp_path, callback)
    interrupts = Interrupts()
    trainer.add_callback(interrupts)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    interrupted = callback.sparsifier
    trainer.remove_callback(interrupts)
    trainer.train()
    assert interrupted.step == 3
    assert callback.sparsifier.step == 10
    assert zeros_where_inactive(callback.sparsifier)


@pytest.mark.parametrize("storage", ["dense", "connections"])
def test_after_the_best_checkpoint_is_loaded_the_masks_are_its_own(storage, tmp_path):
    callback = SparseTrainerCallback(RIGL, compute="sparse", storage=storage)
    every = {"save_steps": 5, "eval_steps": 5, "eval_strategy": "steps"}
    best = {"load_best_model_at_end": True, "metric_for_best_model": "runtime", "greater_is_better": False}
    trainer = trainer_of(gpt2, tmp_path, callback, learning_rate=1e-2, **every, **best)
    evaluate, runtimes = trainer.evaluate, iter([1.0, 2.0])
    trainer.evaluate = lambda *args, **named: {**evaluate(*args, **named), "eval_runtime": next(runtimes)}
    trainer.train()
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-5")
    assert callback.sparsifier.step == 5
    assert zeros_where_inactive(callback.sparsifier)


def test_a_second_training_says_that_its_masks_are_new(tmp_path):
    callback = SparseTrainerCallback(RIGL)
    trainer = trainer_of(gpt2, tmp_path, callback)
    trainer.train()
    with pytest.warns(UserWarning, match="The network was sparse before it got its masks: 80.0%"):
        trainer.train()


def test_accumulation_clipping_and_checkpointing(tmp_path):
    callback = SparseTrainerCallback(RIGL)
    trainer_of(gpt2, tmp_path, callback, gradient_accumulation_steps=2, gradient_checkpointing=True).train()
    assert callback.sparsifier.step == 10
    assert zeros_where_inactive(callback.sparsifier)


def test_zeros_of_a_pruned_model_stay(tmp_path):
    model, _ = gpt2()
    for block in model.transformer.h:
        with torch.no_grad():
            block.mlp.c_fc.weight[torch.rand_like(block.mlp.c_fc.weight) < 0.7] = 0
    zeros = {n: p == 0 for n, p in model.named_parameters() if "c_fc.weight" in n}
    model.save_pretrained(tmp_path / "pruned")

    def pruned():
        return transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "pruned"), gpt2()[1]

    callback = SparseTrainerCallback(FixedMasks.from_zeros(model, ["*c_fc"]), include=["*c_fc"])
    trainer = trainer_of(pruned, tmp_path, callback, weight_decay=0.1)
    trainer.train()
    for name, mask in zeros.items():
        assert torch.equal(trainer.model.get_parameter(name) == 0, mask)


def test_what_cannot_work_is_refused_before_the_first_batch(tmp_path):
    with pytest.raises(ValueError, match="Expected `algorithm` to be one such as"):
        SparseTrainerCallback("rigl")
    with pytest.raises(ValueError, match="GraSP, which differentiates the loss twice"):
        trainer_of(gpt2, tmp_path, SparseTrainerCallback(GraSP(0.8))).train()
    with pytest.raises(ValueError, match="Expected `exclude` to name sparse layers"):
        trainer_of(gpt2, tmp_path, SparseTrainerCallback(RIGL, exclude=["decoder"])).train()


def test_accelerate(tmp_path):
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    torch.manual_seed(0)
    model = nn.Linear(20, 10)
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    loader = torch.utils.data.DataLoader(torch.randn(32, 20), 4)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    sparsifier = Sparsifier.attach(accelerator.unwrap_model(model), optimizer, RIGL, total_steps=4)
    for batch in loader:
        with accelerator.accumulate(model):
            accelerator.backward(model(batch).square().mean())
            optimizer.step()
            optimizer.zero_grad()
    assert sparsifier.step == 4
    assert zeros_where_inactive(sparsifier)


@pytest.mark.slow
def test_two_processes_keep_the_same_masks(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(
        "import sys, torch\n"
        f"sys.path.insert(0, {str(__file__.rpartition('/tests/')[0])!r})\n"
        "from pathlib import Path\n"
        "from tests.neighbours.test_huggingface import RIGL, SparseTrainerCallback, gpt2, trainer_of\n"
        "callback = SparseTrainerCallback(RIGL)\n"
        "trainer = trainer_of(gpt2, sys.argv[1], callback)\n"
        "trainer.train()\n"
        "assert torch.distributed.get_world_size() == 2\n"
        "found = [None, None]\n"
        "torch.distributed.all_gather_object(found, callback.sparsifier.checksums())\n"
        "assert found[0] == found[1] and callback.sparsifier.exploration() > 0.21\n"
        "Path(sys.argv[1], f'ok{torch.distributed.get_rank()}').touch()\n"
        "torch.distributed.barrier()\n"  # who leaves while the other still talks is aborted
        "torch.distributed.destroy_process_group()\n"
    )
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script), str(tmp_path)]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=300)
    # Each wrote its file when all held; how torch's processes then leave each other is not looked at.
    assert (tmp_path / "ok0").exists(), done.stderr[-2000:]
    assert (tmp_path / "ok1").exists(), done.stderr[-2000:]
