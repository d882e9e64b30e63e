"""The key vocabulary of the option files in BasicSR, NAFNet and the paper's released code.

``KEYS`` lists every key that occurs in their files for classes that mcir has, with a value and what mcir does with it.
``OTHERS`` lists the other classes with all their keys, and the one line that mcir prints for a file with them.
"""

import copy
import logging

import pytest
import yaml

from mcir.config import OptionError, load

TRAIN_SET = {"name": "DIV2K", "type": "PairedImageDataset", "dataroot_gt": "gt", "dataroot_lq": "lq", "gt_size": 96}
LOADER = {"batch_size_per_gpu": 16}
VAL_SET = {"name": "Set5", "type": "PairedImageDataset", "dataroot_gt": "gt", "dataroot_lq": "lq"}
EDSR = {"type": "EDSR", "num_in_ch": 3, "num_out_ch": 3, "upscale": 2}
ADAM = {"type": "Adam", "lr": 1e-4}
L1 = {"type": "L1Loss"}
SECTION = {
    "SRModel": {"pixel_opt": L1},
    "SwinIRModel": {"pixel_opt": L1},
    "ImageRestorationModel": {"pixel_opt": L1},
    "ImageRestorationModel_FFANet_Neg_Multi": {
        "pixel_opt": L1,
        "neg_iter": [1, 2],
        "neg_decay": [0.1, 0.1],
        "perceptual_opt": {"type": "PerceptualLoss", "layer_weights": {"relu1_2": 1}, "vgg_type": "vgg16"},
    },
}
BASICSR, NAFNET, RELEASED = "SRModel", "ImageRestorationModel", "ImageRestorationModel_FFANet_Neg_Multi"


def smallest(model_type):
    return {
        "name": "run",
        "model_type": model_type,
        "scale": 2,
        "datasets": {"train": {**TRAIN_SET, **LOADER}, "val": copy.deepcopy(VAL_SET)},
        "network_g": dict(EDSR),
        "train": {"total_iter": 100, "optim_g": dict(ADAM), **copy.deepcopy(SECTION[model_type])},
        "val": {"metrics": {"psnr": {"type": "calculate_psnr"}}},
    }


def put(tree, key, value):
    *sections, last = key.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
    tree[last] = value


KEPT, DROPPED, IGNORED = "kept", "dropped", "ignored"
EVERYWHERE = {
    "name": ("other", KEPT),
    "scale": (2, KEPT),
    "num_gpu": ("auto", KEPT),
    "manual_seed": (10, KEPT),
    "datasets.train.name": ("DIV2K", KEPT),
    "datasets.train.filename_tmpl": ("{}", KEPT),
    "datasets.train.meta_info_file": ("meta.txt", KEPT),
    "datasets.train.io_backend": ({"type": "lmdb"}, KEPT),
    "datasets.train.gt_size": (96, KEPT),
    "datasets.train.use_hflip": (True, KEPT),
    "datasets.train.use_flip": (True, "datasets.train.use_hflip"),
    "datasets.train.use_rot": (True, KEPT),
    "datasets.train.num_worker_per_gpu": (6, KEPT),
    "datasets.train.batch_size_per_gpu": (16, KEPT),
    "datasets.train.use_shuffle": (True, DROPPED),
    "datasets.train.dataset_enlarge_ratio": (100, DROPPED),
    "datasets.train.prefetch_mode": (None, DROPPED),
    "datasets.train.pin_memory": (True, DROPPED),
    "datasets.val.filename_tmpl": ("{}x2", KEPT),
    "datasets.val.io_backend": ({"type": "disk"}, KEPT),
    "datasets.val_2": ({**VAL_SET, "name": "Set14"}, KEPT),
    "path.pretrain_network_g": ("net_g.pth", KEPT),
    "path.pretrain_model_g": ("net_g.pth", "path.pretrain_network_g"),
    "path.strict_load_g": (False, KEPT),
    "path.strict_load": (False, "path.strict_load_g"),
    "path.param_key_g": ("params_ema", KEPT),
    "path.resume_state": (None, KEPT),
    "train.optim_g": ({**ADAM, "weight_decay": 0, "betas": [0.9, 0.99]}, KEPT),
    "train.scheduler": ({"type": "MultiStepLR", "milestones": [200], "gamma": 0.5}, KEPT),
    "train.total_iter": (300, KEPT),
    "train.warmup_iter": (-1, KEPT),
    "train.ema_decay": (0, KEPT),
    "train.pixel_opt": ({"type": "CharbonnierLoss", "loss_weight": 1.0, "reduction": "sum"}, KEPT),
    "val.val_freq": (5e3, KEPT),
    "val.save_img": (True, KEPT),
    "val.suffix": (None, KEPT),
    "val.metrics.psnr": ({"type": "calculate_psnr", "crop_border": 4, "test_y_channel": False}, KEPT),
    "logger.print_freq": (100, KEPT),
    "logger.save_checkpoint_freq": (5e3, KEPT),
    "logger.use_tb_logger": (True, KEPT),
    "logger.wandb": ({"project": None, "resume_id": None}, IGNORED),
    "dist_params.backend": ("nccl", KEPT),
    "dist_params.port": (29500, DROPPED),
}
KEYS = {
    BASICSR: {
        **EVERYWHERE,
        "train.scheduler": (
            {"type": "CosineAnnealingRestartLR", "periods": [9, 9], "restart_weights": [1, 1], "eta_min": 1e-7},
            KEPT,
        ),
        "train.perceptual_opt": (
            {
                "type": "PerceptualLoss",
                "layer_weights": {"conv5_4": 1},
                "vgg_type": "vgg19",
                "use_input_norm": True,
                "range_norm": False,
                "perceptual_weight": 1.0,
                "style_weight": 0,
                "criterion": "l1",
            },
            KEPT,
        ),
        "val.pbar": (False, DROPPED),
        "val.metrics.psnr.better": ("higher", DROPPED),
        "val.metrics.niqe": ({"type": "calculate_niqe", "crop_border": 4, "better": "lower"}, DROPPED),
        "find_unused_parameters": (True, "dist_params.find_unused_parameters"),
        "suffix": (None, IGNORED),
        "crop_border": (None, IGNORED),
        "save_img": (True, IGNORED),
    },
    "SwinIRModel": EVERYWHERE,
    NAFNET: {
        **EVERYWHERE,
        "train.scheduler": ({"type": "TrueCosineAnnealingLR", "T_max": 200, "eta_min": 1e-7}, KEPT),
        "train.pixel_opt": ({"type": "PSNRLoss", "loss_weight": 1, "reduction": "mean"}, KEPT),
        "train.mixup": (False, DROPPED),
        "val.grids": (False, DROPPED),
        "val.use_image": (False, DROPPED),
        "val.max_minibatch": (1, DROPPED),
        "val.trans_num": (1, IGNORED),
        "val.metrics.ssim": ({"type": "calculate_skimage_ssim"}, DROPPED),
    },
    RELEASED: {
        **EVERYWHERE,
        "path_neg": ({"pretrain_network_g": None, "strict_load_g": True, "resume_state": None}, DROPPED),
        "train.use_grad_norm": (0.05, IGNORED),
        "train.use_grad_clip": (0.05, "train.grad_clip"),
        "train.neg_iter": ([100, 200], "train.negatives.steps"),
        "train.neg_decay": ([0.1, 0.3], "train.negatives.weight"),
        "train.neg_start": (0.1, "train.negatives.start"),
        "train.perceptual_opt": (SECTION[RELEASED]["perceptual_opt"] | {"style_weight": 0}, "train.contrastive_opt"),
    },
}
CASES = [(model_type, key, *case) for model_type, keys in KEYS.items() for key, case in keys.items()]


@pytest.mark.parametrize(
    ("model_type", "key", "value", "action"), CASES, ids=[f"{case[0]}-{case[1]}" for case in CASES]
)
def test_what_mcir_does_with_a_key(write, caplog, model_type, key, value, action):
    tree = smallest(model_type)
    put(tree, key, value)
    with caplog.at_level(logging.WARNING, "mcir"):
        load(write(yaml.safe_dump(tree)))
    changes = caplog.records[0].getMessage().partition("\nTo print the same file")[0].splitlines()
    about = [line.strip() for line in changes if line.startswith((f"  {key} ", f"  {key}:"))]
    if action == KEPT:
        assert about == []
    else:
        (line,) = about
        prefix = {DROPPED: "is dropped: ", IGNORED: "is ignored: "}.get(action, f"-> {action}")
        assert line.startswith(f"{key} {prefix}")
        assert len(line) > len(f"{key} {prefix}") or action not in (DROPPED, IGNORED)


@pytest.mark.parametrize("model_type", KEYS)
def test_a_key_that_nobody_knows_stays_an_error(problems, model_type):
    for key, message in (
        ("train.ema_decai", "RestorationModel has no argument 'ema_decai'. Did you mean 'ema_decay'?"),
        ("datasets.train.gt_sise", "PairedImageDataset has no argument 'gt_sise'. Did you mean 'gt_size'?"),
        ("val.save_image", "'val' has no option 'save_image'. Did you mean 'save_img'?"),
        ("datasets.train.use_shuffle", "not supported: training samples are always shuffled."),
    ):
        tree = smallest(model_type)
        put(tree, key, False)
        (found,) = problems(yaml.safe_dump(tree))
        model = "ContrastiveModel" if model_type == RELEASED else "RestorationModel"
        assert found.endswith(f"{key}: {message.replace('RestorationModel', model)}")


# -- classes that mcir does not have ----------------------------------------------------------------------------------

GAN = {"type": "GANLoss", "gan_type": "vanilla", "real_label_val": 1.0, "fake_label_val": 0.0, "loss_weight": 0.1}
ADVERSARIAL = {"train.optim_d": ADAM, "train.gan_opt": GAN, "train.net_d_iters": 1, "train.net_d_init_iters": 0}
RRDB = {"type": "RRDBNet", "num_in_ch": 3, "num_out_ch": 3, "num_feat": 64, "num_block": 23, "num_grow_ch": 32}
VGG = {"type": "VGGStyleDiscriminator", "num_in_ch": 3, "num_feat": 64, "input_size": 256}
VIDEO_SET = {
    "num_frame": 5, "interval_list": [1], "random_reverse": False, "val_partition": "REDS4", "dataroot_flow": None,
    "test_mode": False, "flip_sequence": True,
}  # fmt: skip
VIDEO_TEST = {
    **VAL_SET,
    "type": "VideoTestDataset",
    "cache_data": False,
    "num_frame": 7,
    "padding": "reflection_circle",
}
RECURRENT = {
    "datasets.train": {**TRAIN_SET, **LOADER, **VIDEO_SET, "type": "REDSRecurrentDataset"},
    "datasets.val": {**VAL_SET, "type": "VideoRecurrentTestDataset", "cache_data": True, "num_frame": -1},
    "train.fix_flow": 5000, "train.flow_lr_mul": 0.125, "val.flip_seq": True, "val.center_frame_only": True,
    "find_unused_parameters": True,
}  # fmt: skip
STEREO = {**VAL_SET, "type": "PairedStereoImageDataset"}
SYNTHESIS = {
    "l1_gt_usm": True, "percep_gt_usm": True, "gan_gt_usm": False, "gt_usm": True, "resize_prob": [0.2, 0.7, 0.1],
    "resize_range": [0.15, 1.5], "gaussian_noise_prob": 0.5, "noise_range": [1, 30], "poisson_scale_range": [0.05, 3],
    "gray_noise_prob": 0.4, "jpeg_range": [30, 95], "second_blur_prob": 0.8, "resize_prob2": [0.3, 0.4, 0.3],
    "resize_range2": [0.3, 1.2], "gaussian_noise_prob2": 0.5, "noise_range2": [1, 25],
    "poisson_scale_range2": [0.05, 2], "gray_noise_prob2": 0.4, "jpeg_range2": [30, 95], "gt_size": 256,
    "queue_size": 180,
    "datasets.train": {
        **LOADER, "name": "DF2K", "type": "RealESRGANDataset", "dataroot_gt": "gt", "meta_info": "meta.txt",
        "blur_kernel_size": 21, "kernel_list": ["iso"], "kernel_prob": [1.0], "sinc_prob": 0.1, "blur_sigma": [0.2, 3],
        "betag_range": [0.5, 4], "betap_range": [1, 2], "blur_kernel_size2": 21, "kernel_list2": ["iso"],
        "kernel_prob2": [1.0], "sinc_prob2": 0.1, "blur_sigma2": [0.2, 1.5], "betag_range2": [0.5, 4],
        "betap_range2": [1, 2], "final_sinc_prob": 0.8, "gt_size": 256,
    },
}  # fmt: skip
UNET_D = {"type": "UNetDiscriminatorSN", "num_in_ch": 3, "num_feat": 64, "skip_connection": True}
SINGLE = {"name": "real", "type": "SingleImageDataset", "dataroot_lq": "lq"}
WITHOUT_GT = "the data set SingleImageDataset (images without ground truth; `mcir restore` restores them)"

OTHERS = {
    "RRDBNet": (BASICSR, {"network_g": RRDB}, "the network RRDBNet"),
    "RCAN": (BASICSR, {"network_g": {**EDSR, "type": "RCAN", "num_group": 10}}, "the network RCAN"),
    "MSRResNet without ground truth": (
        BASICSR,
        {"network_g": {**EDSR, "type": "MSRResNet"}, "datasets.val": SINGLE},
        f"the network MSRResNet, {WITHOUT_GT}",
    ),
    "EDSR without ground truth": (BASICSR, {"datasets.val": SINGLE}, WITHOUT_GT),
    "ECBSR": (
        BASICSR,
        {
            "network_g": {"type": "ECBSR", "num_channel": 16, "with_idt": False, "act_type": "prelu", "scale": 2},
            "datasets.train.color": "y", "datasets.val.color": "y",
        },
        "the network ECBSR",
    ),
    "SRGAN": (
        "SRGANModel",
        {"network_g": {**EDSR, "type": "MSRResNet"}, "network_d": VGG, **ADVERSARIAL},
        "the model SRGANModel (training with a discriminator), the network MSRResNet, the network "
        "VGGStyleDiscriminator, the loss GANLoss",
    ),
    "ESRGAN": (
        "ESRGANModel",
        {"network_g": RRDB, "network_d": VGG, **ADVERSARIAL},
        "the model ESRGANModel (training with a discriminator), the network RRDBNet, the network "
        "VGGStyleDiscriminator, the loss GANLoss",
    ),
    "Real-ESRNet": (
        "RealESRNetModel",
        {"network_g": {**RRDB, "scale": 2}, **SYNTHESIS},
        "the model RealESRNetModel (degradations on the GPU), the network RRDBNet, the data set RealESRGANDataset",
    ),
    "Real-ESRGAN and LDL": (
        "RealESRGANModel",
        {"network_g": RRDB, "network_d": UNET_D, **ADVERSARIAL, **SYNTHESIS, "train.artifacts_opt": L1},
        "the model RealESRGANModel (degradations on the GPU, and training with a discriminator), the network RRDBNet, "
        "the network UNetDiscriminatorSN, the loss GANLoss, the data set RealESRGANDataset",
    ),
    "HiFaceGAN": (
        "HiFaceGANModel",
        {
            "network_g": {
                "type": "HiFaceGAN", "num_in_ch": 3, "use_vae": False, "z_dim": 256, "crop_size": 512,
                "norm_g": "batch", "is_train": False,
            },
            "network_d": {"type": "HiFaceGANDiscriminator", "conditional_d": True, "norm_d": "instance"},
            **ADVERSARIAL,
            "train.gan_opt": {**GAN, "type": "MultiScaleGANLoss"},
            "train.feature_matching_opt": {"type": "GANFeatLoss", "loss_weight": 10.0, "criterion": "l1"},
        },
        "the model HiFaceGANModel (training with a discriminator), the network HiFaceGAN, the network "
        "HiFaceGANDiscriminator, the loss MultiScaleGANLoss, the loss GANFeatLoss",
    ),
    "StyleGAN2": (
        "StyleGAN2Model",
        {
            "network_g": {
                "type": "StyleGAN2Generator", "out_size": 256, "num_style_feat": 512, "num_mlp": 8, "lr_mlp": 0.01,
                "channel_multiplier": 2, "resample_kernel": [1, 3, 3, 1],
            },
            "network_d": {"type": "StyleGAN2Discriminator", "out_size": 256},
            "datasets.train": {**LOADER, "type": "FFHQDataset", "mean": [0.5], "std": [0.5]},
            **ADVERSARIAL,
            "train.r1_reg_weight": 10, "train.path_batch_shrink": 2, "train.path_reg_weight": 2,
            "train.net_g_reg_every": 4, "train.net_d_reg_every": 16, "train.mixing_prob": 0.9,
        },
        "the model StyleGAN2Model (generation of images), the network StyleGAN2Generator, the network "
        "StyleGAN2Discriminator, the loss GANLoss, the data set FFHQDataset",
    ),
    "EDVR": (
        "EDVRModel",
        {
            "network_g": {
                "type": "EDVR", "num_frame": 5, "deformable_groups": 8, "num_extract_block": 5, "with_tsa": True,
                "num_reconstruct_block": 10, "center_frame_idx": None, "hr_in": False, "with_predeblur": False,
            },
            "datasets.train": {**TRAIN_SET, **LOADER, **VIDEO_SET, "type": "REDSDataset"},
            "datasets.val": VIDEO_TEST, "train.tsa_iter": 50, "train.dcn_lr_mul": 1, "find_unused_parameters": True,
        },
        "the model EDVRModel (video), the network EDVR, the data set REDSDataset, the data set VideoTestDataset",
    ),
    "BasicVSR": (
        "VideoRecurrentModel",
        {"network_g": {"type": "BasicVSR", "num_feat": 64, "num_block": 30, "spynet_path": "s.pth"}, **RECURRENT},
        "the model VideoRecurrentModel (video), the network BasicVSR, the data set REDSRecurrentDataset, the data set "
        "VideoRecurrentTestDataset",
    ),
    "IconVSR": (
        "VideoRecurrentModel",
        {
            "network_g": {"type": "IconVSR", "keyframe_stride": 5, "temporal_padding": 2, "edvr_path": "e.pth"},
            **RECURRENT,
            "datasets.train": {**TRAIN_SET, **LOADER, **VIDEO_SET, "type": "Vimeo90KRecurrentDataset"},
        },
        "the model VideoRecurrentModel (video), the network IconVSR, the data set Vimeo90KRecurrentDataset, the data "
        "set VideoRecurrentTestDataset",
    ),
    "BasicVSR++": (
        "VideoRecurrentModel",
        {"network_g": {"type": "BasicVSRPlusPlus", "mid_channels": 64, "num_blocks": 7, "is_low_res_input": True}},
        "the model VideoRecurrentModel (video), the network BasicVSRPlusPlus",
    ),
    "BasicVSR with a discriminator": (
        "VideoRecurrentGANModel",
        {"network_g": {"type": "BasicVSR"}, "network_d": VGG, **ADVERSARIAL, "train.lr_flow": 0.0},
        "the model VideoRecurrentGANModel (video, and training with a discriminator), the network BasicVSR, the "
        "network VGGStyleDiscriminator, the loss GANLoss",
    ),
    "DUF": (
        "VideoBaseModel",
        {
            "network_g": {"type": "DUF", "num_layer": 52, "adapt_official_weights": True, "scale": 2},
            "datasets.val": {**VIDEO_TEST, "type": "VideoTestDUFDataset", "use_duf_downsampling": True},
        },
        "the model VideoBaseModel (video), the network DUF, the data set VideoTestDUFDataset",
    ),
    "TOFlow": (
        "VideoBaseModel",
        {"network_g": {"type": "TOFlow", "adapt_official_weights": True}, "datasets.val": VIDEO_TEST, "save_img": True},
        "the model VideoBaseModel (video), the network TOFlow, the data set VideoTestDataset",
    ),
    "Baseline": (
        NAFNET,
        {
            "network_g": {
                "type": "BaselineLocal", "width": 32, "enc_blk_nums": [1, 1, 1, 28], "middle_blk_num": 1,
                "dec_blk_nums": [1, 1, 1, 1], "dw_expand": 1, "ffn_expand": 2,
            },
            "val.use_image": False,
        },
        "the network BaselineLocal",
    ),
    "NAFSSR": (
        NAFNET,
        {
            "network_g": {
                "type": "NAFSSR", "up_scale": 2, "width": 48, "num_blks": 16, "drop_path_rate": 0.0,
                "drop_out_rate": 0.0, "train_size": [1, 6, 30, 90],
            },
            "datasets.train": {
                **STEREO, **LOADER, "gt_size_h": 60, "gt_size_w": 180, "use_vflip": True, "flip_RGB": True,
            },
            "datasets.val": STEREO, "train.mixup": False, "val.trans_num": 1,
            "val.metrics.ssim": {"type": "calculate_skimage_ssim"},
        },
        "the network NAFSSR, the data set PairedStereoImageDataset",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_one_line_lists_the_classes_that_are_missing(write, name):
    model_type, keys, missing = OTHERS[name]
    tree = smallest(model_type if model_type in SECTION else BASICSR) | {"model_type": model_type}
    for key, value in keys.items():
        put(tree, key, value)
    with pytest.raises(OptionError) as caught:
        load(write(yaml.safe_dump(tree, sort_keys=False)))
    (problem,) = caught.value.problems
    pronoun = "them" if ", the " in missing else "it"
    assert problem.message == f"The file needs {missing}. mcir does not have {pronoun}."
    assert problem.location.key.endswith("type") and problem.location.line is not None
