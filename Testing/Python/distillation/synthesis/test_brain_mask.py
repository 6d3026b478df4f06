import numpy as np

from distillation.synthesis.label_maps import CLOSING_MM, brain_distance, largest_piece, solid_brain

SHAPE = (60, 60, 60)
Z, Y, X = np.ogrid[:60, :60, :60]
BALL = (Z - 30) ** 2 + (Y - 30) ** 2 + (X - 30) ** 2 <= 20**2
NOTHING = np.zeros(SHAPE, bool)


def test_sulci_and_ventricles_belong_to_it():
    sulcus = BALL & (np.abs(X - 30) <= 2) & (Z > 35)
    ventricle = BALL & (np.abs(Z - 28) <= 3) & (np.abs(Y - 30) <= 6) & (np.abs(X - 30) <= 10)
    solid = solid_brain(BALL & ~sulcus & ~ventricle, sulcus | ventricle, (1, 1, 1))
    inside = (Z - 30) ** 2 + (Y - 30) ** 2 + (X - 30) ** 2 <= 17**2
    assert solid[inside].all()
    assert not solid[~BALL].any()


def test_bone_in_a_gap_does_not():
    gap = BALL & (np.abs(X - 30) <= 2) & (Z > 35)
    solid = solid_brain(BALL & ~gap, NOTHING, (1, 1, 1))
    assert not solid[gap & (Z > 38)].any()


def test_a_gap_wider_than_the_closing_stays():
    wide = BALL & (np.abs(X - 30) <= CLOSING_MM + 2) & (Z > 30)
    solid = solid_brain(BALL & ~wide, wide, (1, 1, 1))
    assert not solid[48, 30, 30]


def test_specks_and_threads_fall_off():
    speck, thread = NOTHING.copy(), NOTHING.copy()
    speck[2:5, 2:5, 2:5] = True
    thread[30, 30, 50:59] = True
    solid = solid_brain(BALL | speck | thread, NOTHING, (1, 1, 1))
    assert not solid[speck].any()
    assert not solid[30, 30, 54]
    assert solid.sum() > 0.98 * BALL.sum()


def test_a_brain_that_touches_the_edge():
    half = BALL[:30]
    solid = solid_brain(half, np.zeros_like(half), (1, 1, 1))
    assert solid.shape == half.shape
    assert solid[29, 30, 30]
    assert (solid & half).sum() > 0.97 * half.sum()  # the rim is rounded


def test_the_closing_is_in_millimetres():
    slit = BALL & (np.abs(X - 30) <= 2) & (Z > 30)
    assert solid_brain(BALL & ~slit, slit, (1, 1, 1))[44, 30, 30]
    # the same voxels five times as large: a gap of 25 mm
    assert not solid_brain(BALL & ~slit, slit, (5, 5, 5))[44, 30, 30]


def test_distance_is_signed_and_in_millimetres():
    distance = brain_distance(BALL, (1, 2, 1))
    assert distance.dtype == np.float32
    assert distance[30, 30, 30] < -18
    assert abs(distance[30, 30, 55] - 5) < 0.7
    assert abs(distance[30, 55, 30] - 10) < 1.2
    agreeing = ((distance < 0) == BALL).mean()
    assert agreeing > 0.99


def test_largest_piece():
    two = NOTHING.copy()
    two[:10, :10, :10] = two[20:25, 20:25, 20:25] = True
    assert largest_piece(two).sum() == 1000
    assert largest_piece(NOTHING) is NOTHING
